"""A stream that comes on the event loop, as a file for a thread to read."""

from __future__ import annotations

import asyncio
import io
import queue
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from hutch.node.disk.entries import Hostile

T = TypeVar("T")

_AHEAD = 16
"""Pieces that wait for the thread."""


class _File(io.RawIOBase):
    def __init__(self, next_piece: Callable[[], bytes]) -> None:
        self._next = next_piece
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        if not self._piece:
            self._piece = memoryview(self._next())
        view = cast(memoryview, buffer)
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


async def read_in_thread(pieces: AsyncIterator[bytes], work: Callable[[BinaryIO], T]) -> T:
    """The result of `work`, which reads the stream in a thread of its own. Raises what either raises; then, and when
    this is cancelled, the thread has ended."""
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(_AHEAD)
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def next_piece() -> bytes:
        piece = waiting.get()
        if piece is None:
            waiting.put(None)
            return b""
        loop.call_soon_threadsafe(room.release)
        return piece

    async def feed() -> None:
        try:
            async for piece in pieces:
                await room.acquire()
                waiting.put(piece)
        finally:
            waiting.put(None)

    with ThreadPoolExecutor(1, thread_name_prefix="disk") as thread:
        file = cast(BinaryIO, io.BufferedReader(_File(next_piece), 1 << 18))
        working = loop.run_in_executor(thread, work, file)
        feeding: asyncio.Future[None] = asyncio.create_task(feed())
        both: set[asyncio.Future[Any]] = {working, feeding}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and feeding.exception() is not None:
                await asyncio.wait({working})
                raise feeding.exception() or Hostile("the stream was cut")
            return await asyncio.shield(working)
        finally:
            feeding.cancel()
            waiting.put(None)
            await asyncio.wait(both)
            if not working.cancelled():
                working.exception()  # it was looked at
