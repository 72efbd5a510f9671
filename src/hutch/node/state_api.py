"""The routes of pause, resume, rollback and snapshots."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from aiohttp import web

from hutch.errors import InvalidRequest
from hutch.model import (
    DiffRequest,
    HoldRequest,
    Model,
    PauseRequest,
    ResumeRequest,
    RollbackRequest,
    SnapshotRequest,
)
from hutch.node.archives import Archives
from hutch.node.parts import Parts
from hutch.node.sandboxes import Sandboxes

T = TypeVar("T")

_LOOK = 1.0
"""Seconds between two looks whether the caller is still there."""


class StateApi:
    """The handlers."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes) -> None:
        self._snapshots = parts.snapshots
        self._archives = Archives(parts)
        self._sandboxes = sandboxes
        self._states = sandboxes.states

    def routes(self) -> list[web.RouteDef]:
        """Method, path and handler of each."""
        return [
            web.post("/sandboxes/{id}/pause", self.pause),
            web.post("/sandboxes/{id}/resume", self.resume),
            web.post("/sandboxes/{id}/rollback", self.rollback),
            web.post("/sandboxes/{id}/snapshots", self.snapshot),
            web.post("/sandboxes/{id}/diff", self.diff),
            web.post("/sandboxes/{id}/llm/hold", self.hold),
            web.delete("/sandboxes/{id}/llm/hold", self.let_go),
            web.get("/snapshots", self.list),
            web.post("/snapshots", self.take_in),
            web.get("/snapshots/usage", self.usage),
            web.get("/snapshots/damaged", self.damaged),
            web.get("/snapshots/{id}/archive", self.archive),
            web.get("/snapshots/{id}", self.get),
            web.delete("/snapshots/{id}", self.delete),
        ]

    async def pause(self, request: web.Request) -> web.Response:
        body = PauseRequest.model_validate_json(await request.read())
        entry = await self._states.pause(request.match_info["id"], body)
        return _json(self._sandboxes.view(entry))

    async def resume(self, request: web.Request) -> web.Response:
        body = ResumeRequest.model_validate_json(await request.read() or b"{}")
        entry = await self._states.resume(request.match_info["id"], body)
        return _json(self._sandboxes.view(entry))

    async def rollback(self, request: web.Request) -> web.Response:
        body = RollbackRequest.model_validate_json(await request.read())
        entry = await self._states.rollback(request.match_info["id"], body)
        return _json(self._sandboxes.view(entry))

    async def snapshot(self, request: web.Request) -> web.Response:
        body = SnapshotRequest.model_validate_json(await request.read())
        return _json(await self._states.snapshot(request.match_info["id"], body), status=201)

    async def hold(self, request: web.Request) -> web.Response:
        body = HoldRequest.model_validate_json(await request.read())
        return _json(await self._states.hold(request.match_info["id"], body))

    async def let_go(self, request: web.Request) -> web.Response:
        self._states.let_go(request.match_info["id"])
        return web.Response(status=204)

    async def diff(self, request: web.Request) -> web.Response:
        body = DiffRequest.model_validate_json(await request.read())
        return _json(await _unless_gone(request, self._sandboxes.diff(request.match_info["id"], body)))

    async def list(self, request: web.Request) -> web.Response:
        records = await self._snapshots.records(request.query.get("sandbox"), request.query.get("org"))
        body = {"snapshots": [record.model_dump(mode="json") for record in records]}
        return web.Response(text=json.dumps(body), content_type="application/json")

    async def usage(self, request: web.Request) -> web.Response:
        return _json(await self._snapshots.usage(request.query.get("org")))

    async def damaged(self, _: web.Request) -> web.Response:
        return web.json_response({"snapshots": await self._snapshots.damaged()})

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Errors before the first byte are problems; after it the stream is cut, and so bears no seal."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        async with aclosing(self._archives.export(request.match_info["id"])) as pieces:
            async for piece in pieces:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(piece)
        await response.write_eof()
        return response

    async def take_in(self, request: web.Request) -> web.Response:
        query = request.query
        record = await self._archives.take_in(request.content.iter_any(), query.get("org"), query.get("created_by"))
        return _json(record, status=201)

    async def get(self, request: web.Request) -> web.Response:
        return _json(await self._snapshots.get(request.match_info["id"]))

    async def delete(self, request: web.Request) -> web.Response:
        await self._snapshots.delete(request.match_info["id"])
        return web.Response(status=204)


async def _unless_gone(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, given up when nobody waits for it any more."""
    doing = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({doing}, timeout=_LOOK))[0]:
            if request.transport is None or request.transport.is_closing():
                raise InvalidRequest("the caller is gone")
        return doing.result()
    finally:
        doing.cancel()


def _json(model: Model, status: int = 200) -> web.Response:
    return web.Response(status=status, text=model.model_dump_json(), content_type="application/json")
