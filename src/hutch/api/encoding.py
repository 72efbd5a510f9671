"""How streams are written: newline-delimited JSON, and server-sent events."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from hutch.api.streams import Stream, with_keepalive
from hutch.errors import HutchError
from hutch.model import CodeFrame, Event, ExecFrame, Model

F = TypeVar("F", bound=Model)

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
KEEPALIVE_SECONDS = 15.0
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def exec_frames(frames: AsyncIterator[ExecFrame]) -> Stream:
    """One JSON object a line. A stream that breaks off ends with a frame of type `error`."""
    return _frames(frames, lambda error: ExecFrame(type="error", error=error.to_problem()))


def code_frames(frames: AsyncIterator[CodeFrame]) -> Stream:
    """One JSON object a line. A stream that breaks off ends with a frame of type `problem`."""
    return _frames(frames, lambda error: CodeFrame(type="problem", problem=error.to_problem()))


def _frames(frames: AsyncIterator[F], last: Callable[[HutchError], F]) -> Stream:
    def line(frame: F) -> bytes:
        return frame.model_dump_json(exclude_none=True, by_alias=True).encode() + b"\n"

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(frames) as source:  # type: ignore[type-var]
            async for frame in source:
                yield line(frame)

    return Stream(lines(), media_type=NDJSON, headers=_UNBUFFERED, ending=lambda error: line(last(error)))


def messages(items: AsyncIterator[dict[str, Any]]) -> Stream:
    """One JSON object a line. A stream that breaks off ends with `{"type": "error", "problem": ...}`."""

    async def lines() -> AsyncGenerator[bytes, None]:
        async with aclosing(items) as source:  # type: ignore[type-var]
            async for item in source:
                yield _line(item)

    def ending(error: HutchError) -> bytes:
        return _line({"type": "error", "problem": error.to_problem()})

    return Stream(lines(), media_type=NDJSON, headers=_UNBUFFERED, ending=ending)


def server_sent(events: AsyncIterator[Event]) -> Stream:
    """Events as SSE. `id` is the offset, so that a browser's `Last-Event-ID` reads on where it was. A stream that
    breaks off ends with an event `problem`, which has no id."""

    async def blocks() -> AsyncGenerator[bytes, None]:
        yield b"retry: 1000\n\n"  # sends the headers on their way, too
        async with aclosing(with_keepalive(events, KEEPALIVE_SECONDS)) as source:
            async for event in source:
                yield b": keepalive\n\n" if event is None else _block(event)

    def ending(error: HutchError) -> bytes:
        return b"event: problem\ndata: " + json.dumps(error.to_problem()).encode() + b"\n\n"

    return Stream(blocks(), media_type=SSE, headers=_UNBUFFERED, ending=ending)


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item, separators=(",", ":")).encode() + b"\n"


def _block(event: Event) -> bytes:
    return f"id: {event.offset}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()
