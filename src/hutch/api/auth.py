"""Bearer keys, checked before anything of a body is read and before it is told which paths exist."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from hutch.api.problems import ProblemResponse
from hutch.api.sockets import refuse
from hutch.errors import Unauthorized

SCHEME = {
    "type": "http",
    "description": "An API key: `Authorization: Bearer hk_...`. `hutch up` prints the first one.",
    "scheme": "bearer",
}
"""What `Authenticate` does, in the words of OpenAPI."""


class Authenticate:
    """Lets nobody without a key into `/v1`. What follows finds the caller in `request.state.caller`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not needs_key(scope["path"]):
            return await self._app(scope, receive, send)
        try:
            scope["state"]["caller"] = await scope["app"].state.keys.check(_given(scope))
        except Unauthorized as error:
            if scope["type"] == "websocket":
                return await refuse(WebSocket(scope, receive, send), error)
            return await ProblemResponse(error)(scope, receive, send)
        await self._app(scope, receive, send)


def needs_key(path: str) -> bool:
    """Whether there is nothing at this path without a key."""
    return path == "/v1" or path.startswith("/v1/")


def _given(scope: Scope) -> str | None:
    """The key that the request carries. Browsers cannot set headers on a WebSocket, so there `?token=` does too."""
    scheme, _, value = Headers(scope=scope).get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scope["type"] == "websocket":
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        return tokens[0] if tokens else None
    return None
