"""The asynchronous side. Local files and tars are handled in threads: the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect

from hutch.sdk.sources import Source, chunks_of, whole

T = TypeVar("T")

HttpClient = httpx.AsyncClient
HttpTransport = httpx.AsyncHTTPTransport
Socket = ClientConnection
AnySource = Source | AsyncIterable[bytes]
Body = bytes | AsyncIterable[bytes]

sleep = asyncio.sleep
clock = time.monotonic


async def iterate(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Drive a blocking iterator from a thread."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def body_of(source: AnySource) -> Body:
    """A request body that gives the source's bytes; made anew for each try."""
    data = whole(source)
    if data is not None:
        return data
    return source if isinstance(source, AsyncIterable) else iterate(chunks_of(source))


async def consume(work: Callable[[Iterator[bytes]], T], chunks: AsyncIterator[bytes]) -> T:
    """Run blocking `work` on a stream: in a thread that asks the event loop for each chunk."""
    loop = asyncio.get_running_loop()

    async def following() -> bytes | None:
        return await anext(chunks, None)

    def pull() -> Iterator[bytes]:
        while (chunk := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
            yield chunk

    return await asyncio.to_thread(work, pull())


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Run blocking work."""
    return await asyncio.to_thread(work, *arguments)


class Background:
    """Something that runs beside the caller."""

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        self._task = asyncio.create_task(work(*arguments))

    async def end(self) -> None:
        """Stop it and wait until it has."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def open_socket(url: str, key: str, timeout: float) -> Socket:
    """A WebSocket connection."""
    headers = {"Authorization": f"Bearer {key}"}
    return await connect(url, additional_headers=headers, open_timeout=timeout, max_size=16 << 20, proxy=None)


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Wait for `work` no longer than this; `TimeoutError` then."""
    return await asyncio.wait_for(work, seconds)
