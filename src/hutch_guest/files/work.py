"""Blocking file work beside the event loop, and byte streams between the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from hutch_guest.http.messages import Body

T = TypeVar("T")
BLOCK = 1 << 20


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run a blocking function in the pool. Cancelled, it still waits for the end: files are not closed under it."""
    future = asyncio.get_running_loop().run_in_executor(None, function, *args)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


class BodyReader:
    """A request's body as a file for a thread to read."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def read(self, size: int) -> bytes:
        """`size` bytes, less only at the end."""
        parts: list[bytes] = []
        while size > 0:
            if not self._buffer:
                self._buffer = self._wait(self._body.read())
                if not self._buffer:
                    break
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _wait(self, coroutine: Coroutine[Any, Any, bytes]) -> bytes:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class Stopped(Exception):
    """Nobody reads any more."""


class StreamWriter:
    """A file for a thread to write; what it writes comes out as a stream, at the reader's pace."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(4)
        self._pieces: list[bytes] = []
        self._size = 0
        self._stopped = False

    def write(self, data: bytes) -> None:
        """Called in the thread. Raises `Stopped` when the reader has gone."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= BLOCK // 4:
            self.flush()

    def flush(self) -> None:
        """Called in the thread: pass on what has been collected."""
        block, self._pieces, self._size = b"".join(self._pieces), [], 0
        if block:
            self._put(block)

    def _put(self, block: bytes | None) -> None:
        if self._stopped:
            raise Stopped
        asyncio.run_coroutine_threadsafe(self._queue.put(block), self._loop).result()

    async def stream(self, produce: Callable[[StreamWriter], None]) -> AsyncGenerator[bytes, None]:
        """Run `produce` in a thread and yield what it writes. What it raises is raised here."""

        def run() -> None:
            try:
                produce(self)
                self.flush()
            except Stopped:
                return
            finally:
                if not self._stopped:
                    self._put(None)

        task = self._loop.run_in_executor(None, run)
        try:
            while (block := await self._queue.get()) is not None:
                yield block
            await task
        finally:
            self._stopped = True
            while not task.done():  # let a writer that waits for room see that we have gone
                while not self._queue.empty():
                    self._queue.get_nowait()
                await asyncio.wait([task], timeout=0.01)
