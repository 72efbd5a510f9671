"""The door at which a sandbox asks who it is: `http://identity.hutch/token?audience=...`, plain HTTP inside the slot.

The firewall leads that here, and the guest's own address, which it cannot choose, says which sandbox it is. What is
asked for by a program that was tricked is refused: a server-side request forgery can set no header, a browser can only
for its own origin (so the name it has come by is looked at as well), and a proxy says that it is one.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from aiohttp import web

from hutch.egress.listener import Server
from hutch.egress.llm.refused import Refused
from hutch.model import IdentityAnswer
from hutch.model.identity import AUDIENCE
from hutch.network.base import IDENTITY_ADDRESS, IDENTITY_NAME

HEADER, VALUE = "Metadata-Flavor", "Hutch"
_NAMES = (IDENTITY_NAME, IDENTITY_ADDRESS, f"{IDENTITY_NAME}:80", f"{IDENTITY_ADDRESS}:80")
_PROXIES = ("X-Forwarded-For", "Forwarded", "Via")
_EXAMPLE = f"curl -H '{HEADER}: {VALUE}' 'http://{IDENTITY_NAME}/token?audience=https://vault.example.com'"
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

log = structlog.get_logger(__name__)
Ask = Callable[[str, str], Awaitable[IdentityAnswer]]
"""Asks for a token, with the guest's address and an audience. Raises `Refused`."""


class IdentityDoor:
    """One server for all sandboxes of the node."""

    def __init__(self, ask: Ask, *, host: str = "0.0.0.0", port: int = 0) -> None:
        self._ask = ask
        self._host, self._port = host, port
        self._server: Server | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> int:
        """Begins to listen; answers the port."""
        self._server = Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=256).start()
        return int(self._runner.addresses[0][1])

    def drop(self, address: str) -> None:
        """End all connections of a sandbox that gives up its slot: what is on its way to it may not reach the slot's
        next one."""
        if self._server is not None:
            self._server.drop(address)

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            _check(request)
            audience = request.query.get("audience", "")
            if not re.fullmatch(AUDIENCE, audience):
                raise Refused(400, f"`audience` has 1 to 255 printable characters: who the token is for. {_EXAMPLE}")
            answer = await self._ask(request.remote or "", audience)
        except Refused as refused:
            headers = _HEADERS | ({"Retry-After": "1"} if refused.status in (429, 503) else {})
            return web.json_response({"error": refused.message}, status=refused.status, headers=headers)
        except ConnectionError:
            raise  # the guest has gone
        except Exception:
            log.exception("a token could not be given")
            return web.json_response({"error": "The node failed."}, status=500, headers=_HEADERS)
        if request.query.get("format") == "text":
            return web.Response(text=answer.token, headers=_HEADERS)
        expires = datetime.fromtimestamp(answer.expires_at, UTC).isoformat()
        return web.json_response({"token": answer.token, "expires_at": expires}, headers=_HEADERS)


def _check(request: web.BaseRequest) -> None:
    if request.headers.get("Host", "").lower() not in _NAMES:
        raise Refused(403, f"This is {IDENTITY_NAME}, and answers to no other name.")
    if any(name in request.headers for name in _PROXIES):
        raise Refused(403, "What came through a proxy is not answered.")
    if request.headers.get(HEADER) != VALUE:
        raise Refused(403, f"The header `{HEADER}: {VALUE}` is missing. {_EXAMPLE}")
    if request.method != "GET" or request.path != "/token":
        raise Refused(404, f"There is nothing here but GET /token. {_EXAMPLE}")
