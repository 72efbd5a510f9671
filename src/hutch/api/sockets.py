"""WebSockets: how they are refused, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from hutch.errors import HutchError, InvalidRequest, ServerStopping

_MAX_REASON = 123  # RFC 6455: a close frame has 125 bytes, two of them the code
_CODES = {400: 4400, 401: 4401, 404: 4404, 409: 4409, 429: 4429, 503: 1013, 504: 1013}


def close_code(error: HutchError) -> int:
    """4000 + the HTTP status where the client is at fault, 1012 at a restart, 1013 to try again, 1011 else."""
    return 1012 if isinstance(error, ServerStopping) else _CODES.get(error.http_status, 1011)


def close_reason(error: HutchError) -> str:
    """`{"code", "detail"}` as JSON, the detail shortened until it fits into a close frame."""
    detail = error.detail
    while len((reason := json.dumps({"code": error.code, "detail": detail})).encode()) > _MAX_REASON:
        detail = detail[: max(0, len(detail) - 8)]
    return reason


def query_int(socket: WebSocket, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query string."""
    text = socket.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 19 or not least <= int(text) <= most:
        raise InvalidRequest(f"{name}: a whole number, at least {least}", field=name, value=text[:64])
    return int(text)


async def refuse(socket: WebSocket, error: HutchError) -> None:
    """End the socket with what went wrong. It is accepted first: a close code reaches the client only then."""
    with suppress(WebSocketDisconnect, RuntimeError, OSError):
        if socket.client_state == WebSocketState.CONNECTING:
            await socket.accept()
        await socket.close(close_code(error), close_reason(error))


async def first_of(socket: WebSocket, *parts: Callable[[], Awaitable[None]]) -> None:
    """Run the parts of a conversation together until one of them ends, or the client goes, or the server stops; then
    end all the others, and wait until they have let go of what they hold. Raises what the first one raised."""
    stopping: asyncio.Event = socket.app.state.stopping
    tasks = [asyncio.ensure_future(part()) for part in parts]
    stop = asyncio.ensure_future(stopping.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*tasks, stop):
            task.cancel()
        await asyncio.gather(*tasks, stop, return_exceptions=True)
    for task in tasks:
        if task in done:
            return task.result()
    raise ServerStopping("the server is stopping")
