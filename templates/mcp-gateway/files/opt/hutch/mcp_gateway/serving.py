"""The gateway: its servers, and the HTTP in front of them."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.merged import Merged, gateway
from mcp_gateway.upstream import NotAnswering, Upstream

PORT = 50005
PATH = "/mcp"


def main(told: int) -> None:
    """Serve until a signal. `told` is written to once: `ready`, or what is wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn gives it back, and servers are to be ended, too
    asked = json.load(sys.stdin)
    try:
        with socket.create_server(("127.0.0.1", PORT)) as listening:
            asyncio.run(_serve(asked, listening, told))
    except (NotAnswering, OSError) as error:
        os.write(told, f"{error}".encode()[:4000])
        sys.exit(f"{error}")


async def _serve(asked: dict[str, object], listening: socket.socket, told: int) -> None:
    async with _started(asked["servers"]) as upstreams:
        app = gateway(Merged(upstreams)).streamable_http_app(
            streamable_http_path=PATH,
            # Hosts are many: those of the sandbox's port. Who has the token is no page that was led here by a name.
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        guarded = _Guarded(app, str(asked["token"]))
        config = uvicorn.Config(guarded, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
        await _Telling(config, told).serve(sockets=[listening])


@contextlib.asynccontextmanager
async def _started(asked: object) -> AsyncGenerator[list[Upstream], None]:
    """All of them, at once; they end together."""
    assert isinstance(asked, list)
    upstreams = [Upstream(**each) for each in asked]
    try:
        await asyncio.gather(*(each.start() for each in upstreams))
        yield upstreams
    finally:
        await asyncio.gather(*(each.stop() for each in upstreams))


class _Telling(uvicorn.Server):
    """Tells that it takes connections."""

    def __init__(self, config: uvicorn.Config, told: int) -> None:
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        os.write(self._told, b"ready")
        os.close(self._told)


class _Guarded:
    """Lets in who has the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "")
            if not hmac.compare_digest(given.encode(), self._wanted):
                refused = JSONResponse({"error": "unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})
                return await refused(scope, receive, send)
        await self._app(scope, receive, send)
