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


async def ahead(scope: Scope, receive: Receive) -> tuple[bytes, Receive]:
    """A body before the route reads it, and what the route reads it by. Empty when it is larger than `MAX_BODY`: only
    routes that stream take such a one."""
    declared = Headers(scope=scope).get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY:
        return b"", receive
    messages: list[Message] = []
    size = 0
    scope["state"]["unbounded_body"] = True
    while size <= MAX_BODY:
        messages.append(await receive())
        size += len(messages[-1].get("body", b""))
        if messages[-1]["type"] != "http.request" or not messages[-1].get("more_body", False):
            break
    scope["state"]["unbounded_body"] = False
    body = b"".join(message.get("body", b"") for message in messages) if size <= MAX_BODY else b""

    async def again() -> Message:
        if size > MAX_BODY and not scope["state"]["unbounded_body"]:
            raise _too_large()
        return messages.pop(0) if messages else await receive()

    return body, again


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body is larger than {MAX_BODY >> 20} MiB", hint="Send large things as files: `inputs`, or PUT .../files."
    )
