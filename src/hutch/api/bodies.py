"""Bodies of requests: bounded unless a route says that it streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hutch.errors import PayloadTooLarge

MAX_BODY = 12 << 20
"""Largest body that is read into memory: a prompt of 8 MiB, escaped, fits."""


class BodyLimit:
    """Counts what is read of a body, and stops the reading at `MAX_BODY`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        state = scope.setdefault("state", {})
        state["unbounded_body"] = False
        declared = Headers(scope=scope).get("content-length", "")
        read = 0

        async def bounded() -> Message:
            nonlocal read
            if not state["unbounded_body"] and declared.isdecimal() and int(declared) > MAX_BODY:
                raise _too_large()  # before the client is asked to go on (`Expect: 100-continue`)
            message = await receive()
            read += len(message.get("body", b""))
            if read > MAX_BODY and not state["unbounded_body"]:
                raise _too_large()
            return message

        await self._app(scope, bounded, send)


def streamed_body(request: Request, most: int | None = None) -> AsyncIterator[bytes]:
    """The body as it comes, without the bound (or with `most`), never held whole."""
    request.scope["state"]["unbounded_body"] = True
    declared = request.headers.get("content-length", "")
    if most is not None and declared.isdecimal() and int(declared) > most:
        raise PayloadTooLarge(f"the body has {declared} bytes; at most {most} are taken")
    return _chunks(request)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {MAX_BODY >> 20} MiB", hint="Send large things as files: `inputs`, or PUT .../files."
    )
