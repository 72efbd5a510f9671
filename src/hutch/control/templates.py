"""The templates, as the nodes have them; remembered for a moment, because every create asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from hutch.control.context import Context
from hutch.control.journal import Journal
from hutch.errors import InvalidRequest, NodeUnavailable, NotFound, UnknownTemplate
from hutch.model import TemplateInfo

_FRESH = 5.0
_LONGEST_NAME = 128


class Templates:
    """One node has them today; a fleet of several will have to agree on them."""

    def __init__(self, context: Context, journal: Journal) -> None:
        self._context = context
        self._journal = journal
        self._known: list[TemplateInfo] = []
        self._until = 0.0
        self._ones: dict[str, tuple[float, TemplateInfo]] = {}
        self._asking = asyncio.Lock()

    async def known(self, org: str) -> Sequence[TemplateInfo]:
        """All that an organisation may use, as of a few seconds ago. Raises `NodeUnavailable`."""
        if time.monotonic() >= self._until:
            async with self._asking:  # for ten at once one answer does: it costs the node 10 ms
                if time.monotonic() >= self._until:
                    await self.all()
        return _of(self._known, org)

    async def with_name(self, name: str, org: str) -> Sequence[TemplateInfo]:
        """The template of this name, as of a few seconds ago, if the organisation may use it; else all that it may. All
        take the node ten times as long. Raises `NodeUnavailable`."""
        async with self._asking:
            now = time.monotonic()
            if now >= self._until:
                until, one = self._ones.get(name, (0.0, None))
                if now >= until and (one := await self._ask(name)) is not None:
                    self._ones = {each: known for each, known in self._ones.items() if known[0] > now}
                    self._ones[name] = now + _FRESH, one
                if one is not None and (found := _of([one], org)):
                    return found
        return await self.known(org)

    async def _ask(self, name: str) -> TemplateInfo | None:
        if len(name) > _LONGEST_NAME:
            return None
        try:
            return await self._context.fleet.nodes()[0].template(name)
        except (InvalidRequest, NotFound):  # it is not among those that there are
            return None

    async def now(self, org: str) -> Sequence[TemplateInfo]:
        """All that an organisation may use."""
        return _of(await self.all(), org)

    async def all(self) -> Sequence[TemplateInfo]:
        """Those of every organisation."""
        self._known = await self._context.fleet.nodes()[0].templates()
        self._until = time.monotonic() + _FRESH
        self._ones.clear()
        return self._known

    async def build(self, name: str, force: bool, org: str) -> AsyncIterator[dict[str, Any]]:
        """Build one; messages as they come."""
        if any(each.name == name and each.org not in (None, org) for each in await self.all()):
            raise UnknownTemplate(f"no template is called {name!r}", field="template")
        self.forget()
        return await self._context.fleet.nodes()[0].build_template(name, force)

    def forget(self) -> None:
        """Ask anew when it is needed: they have changed."""
        self._until = 0.0
        self._ones.clear()

    async def answering(self) -> None:
        """Raises `NodeUnavailable` when the node does not answer just now."""
        if self._journal.connected:
            return
        try:
            await self._context.fleet.nodes()[0].info()
        except IndexError as error:
            raise NodeUnavailable("there is no node") from error


def _of(templates: Sequence[TemplateInfo], org: str) -> Sequence[TemplateInfo]:
    return [each for each in templates if each.org in (None, org)]
