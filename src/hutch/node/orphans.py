"""Paused sandboxes that no server knows: of a database that an older copy was put in the place of.

Which they are the server says; it is told, not kept, and said again to a daemon that was restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from aiohttp import web
from pydantic import TypeAdapter

from hutch.errors import SandboxNotFound
from hutch.model import Orphan
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.sandboxes import Sandboxes

_IDS = TypeAdapter(list[str])


class Orphans:
    """One a node, with its routes."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes) -> None:
        self._registry = parts.registry
        self._sandboxes = sandboxes
        self._told: frozenset[str] = frozenset()

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of each."""
        return [
            web.get("/orphans", self.list),
            web.put("/orphans", self.tell),
            web.delete("/orphans/{id}", self.remove),
        ]

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"orphans": [orphan.model_dump(mode="json") for orphan in self._all()]})

    async def tell(self, request: web.Request) -> web.Response:
        """From the server: these are all that it does not know."""
        self._told = frozenset(_IDS.validate_json(await request.read()))
        return web.Response(status=204)

    async def remove(self, request: web.Request) -> web.Response:
        """End one, with what it stands on. Raises `SandboxNotFound` for one that the server has not called so."""
        id = request.match_info["id"]
        if all(orphan.id != id for orphan in self._all()):
            raise SandboxNotFound(f"{id} is no paused sandbox that the server does not know")
        await self._sandboxes.destroy(id)
        return web.Response(status=204)

    def _all(self) -> Sequence[Orphan]:
        """Those that are still paused, the oldest first."""
        found = [entry for id in self._told if (entry := self._registry.find(id)) is not None and entry.paused]
        return [_view(entry) for entry in sorted(found, key=lambda entry: entry.record.started_at)]


def _view(entry: Entry) -> Orphan:
    record = entry.record
    return Orphan(
        id=record.id,
        org=record.org,
        template=record.template,
        snapshot=record.snapshot or "",
        bytes=record.figures.disk_bytes,
        until=datetime.fromtimestamp(record.deadline, UTC),
    )
