"""A small real HTTP server that a test scripts: connections break where it says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

KEY = "hk_test"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Runs in a thread of its own, so that the blocking client can be tested as well."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        """Method, path with query, and headers of every request."""
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def on(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Answer this method and path with the function."""

        def register(handler: Handler) -> Handler:
            self._handlers[method, path] = handler
            return handler

        return register

    def count(self, method: str, path: str) -> int:
        """How often it was asked for."""
        return sum(1 for seen in self.seen if seen[0] == method and seen[1].partition("?")[0] == path)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        """No transport may outlive the loop, and each closes in some turn of it that comes after: wait for that."""
        assert self._runner.server is not None
        transports = [each.transport for each in self._runner.server.connections if each.transport is not None]
        await self._runner.cleanup()
        for transport in transports:
            transport.abort()  # what nobody reads any more would hold it open
        sockets = [transport.get_extra_info("socket") for transport in transports]
        async with asyncio.timeout(5):
            while any(each.fileno() != -1 for each in sockets):
                await asyncio.sleep(0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, dict(request.headers)))
        handler = self._handlers.get((request.method, request.path))
        if handler is None:
            return problem(404, "not_found", f"{request.method} {request.path} is not scripted")
        return await handler(request)


def problem(status: int, code: str, detail: str = "told by the test", **extra: Any) -> web.Response:
    """An error as Hutch gives it."""
    body = {"code": code, "detail": detail, "status": status, **extra}
    return web.Response(status=status, text=json.dumps(body), content_type="application/problem+json")


def cut(request: web.Request) -> web.Response:
    """Break the connection in the middle of whatever it carries."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def begin(request: web.Request, content_type: str) -> web.StreamResponse:
    """A streamed answer."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    await response.prepare(request)
    return response


def event(offset: int, kind: str = "agent_message_chunk", **data: Any) -> bytes:
    """A task's event, as SSE."""
    body = {"offset": offset, "time": "2026-11-21T12:00:00Z", "type": kind, "data": data}
    return f"id: {offset}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


def frame(kind: str, offset: int, **members: Any) -> bytes:
    """An exec's frame, as a line."""
    return json.dumps({"type": kind, "offset": offset, **members}).encode() + b"\n"


SANDBOX_ID = "sbx_" + "a" * 22
TASK_ID = "tsk_" + "a" * 22
EXEC_ID = "exe_" + "a" * 22


def state(**members: Any) -> dict[str, Any]:
    """An exec's state."""
    return {"id": EXEC_ID, "running": True, **members}


def task(**members: Any) -> dict[str, Any]:
    """A task."""
    return {
        "id": TASK_ID,
        "sandbox_id": SANDBOX_ID,
        "agent": "command",
        "state": "running",
        "prompt": "do",
        "budget": {},
        "created_at": "2026-11-21T12:00:00Z",
        **members,
    }


def sandbox(**members: Any) -> dict[str, Any]:
    """A sandbox."""
    return {
        "id": SANDBOX_ID,
        "state": "running",
        "template": "standard",
        "resources": {"cpus": 1, "memory_mib": 512, "disk_mib": 1024, "pids": 256},
        "network": {"mode": "deny_all"},
        "created_at": "2026-11-21T12:00:00Z",
        "deadline": "2026-11-21T13:00:00Z",
        **members,
    }
