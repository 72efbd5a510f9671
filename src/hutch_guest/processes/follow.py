"""Reading a process's output stream, from any point, at the reader's own pace."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from hutch_guest.errors import InvalidRequest
from hutch_guest.processes import frames
from hutch_guest.processes.process import Process

_BLOCK = 256 * 1024
KEEPALIVE = 15.0


async def follow(
    process: Process, position: int = 0, wait: bool = True, keepalive: float = KEEPALIVE
) -> AsyncGenerator[bytes, None]:
    """The stream's bytes from `position` on: whole frames in all, though a block may end within one.

    Without `wait` it ends where the stream ended at the call. A keepalive comes only between frames.
    """
    spool = process.spool
    if not 0 <= position <= spool.end:
        raise InvalidRequest(f"offset {position} is outside the output (0 to {spool.end})", field="from")
    cursor = spool.cursor(position)
    until = None if wait else spool.end
    try:
        while until is None or cursor.position < until:
            size = _BLOCK if until is None else min(_BLOCK, until - cursor.position)
            if block := cursor.read(size):
                yield block
            elif process.finished:
                return
            elif not await process.changed(keepalive):
                yield frames.keepalive(cursor.position)
    finally:
        cursor.close()
