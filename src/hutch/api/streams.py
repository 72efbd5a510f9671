"""Answers that are made as they are sent. When the client goes or the server stops, what makes them ends at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar

import structlog
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hutch.errors import HutchError, InternalError, ServerStopping

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Ending(Protocol):
    """The last bytes of a stream that cannot go on."""

    def __call__(self, error: HutchError) -> bytes: ...


class Stream(Response):
    """`chunks` as the body. A client that reads slowly holds up `chunks` and nothing else.

    With `ending`, an error or the server's stop closes the stream cleanly after the bytes that it gives. Without, an
    error cuts the connection (the client sees that the body is not whole), and a stop lets the body be sent.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        media_type: str,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        ending: Ending | None = None,
    ) -> None:
        self._chunks = chunks
        self._ending = ending
        self._started = False
        self.status_code = status
        self.media_type = media_type
        self.background = None
        self.init_headers({"X-Content-Type-Options": "nosniff"} | dict(headers or {}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(client_gone(receive))
        watched: list[asyncio.Future[Any]] = [pump, gone]
        if self._ending:
            watched.append(asyncio.ensure_future(scope["app"].state.stopping.wait()))
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in watched:
                task.cancel()
            await asyncio.gather(*watched, return_exceptions=True)
        error = _error(pump, gone)
        if error and self._ending:
            if not self._started:
                await self._start(send)
            await send({"type": "http.response.body", "body": self._ending(error), "more_body": False})
        # Else an error leaves the answer unfinished: uvicorn cuts the connection, and the client sees that it was cut.

    async def _pump(self, send: Send) -> None:
        async with aclosing(_closable(self._chunks)) as chunks:
            await self._start(send)
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._started = True


def _error(pump: asyncio.Future[None], gone: asyncio.Future[None]) -> HutchError | None:
    """Why the pump did not come to its end, where there is still someone to be told."""
    if pump.cancelled():
        return None if gone.done() and not gone.cancelled() else ServerStopping("the server is stopping")
    cause = pump.exception()
    if cause is None:
        return None
    if isinstance(cause, HutchError):
        _log.info("a stream was broken off", code=cause.code, detail=cause.detail)
        return cause
    _log.error("a stream failed", exc_info=cause)
    return InternalError("the stream broke off inside Hutch")


async def client_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the awaitable `work`; it is cancelled when the client goes or the server stops."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(client_gone(request.receive))
    stop = asyncio.ensure_future(request.app.state.stopping.wait())
    try:
        await asyncio.wait([task, gone, stop], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, gone, stop):
            each.cancel()
        await asyncio.gather(task, gone, stop, return_exceptions=True)
    if task.cancelled():
        raise ClientDisconnect if gone.done() and not gone.cancelled() else ServerStopping("the server is stopping")
    return task.result()


async def with_keepalive(items: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None, None]:
    """The items, and a None for every so many seconds of silence."""
    async with aclosing(_closable(items)) as source:
        upcoming = asyncio.ensure_future(anext(source, _END))
        try:
            while True:
                done, _ = await asyncio.wait([upcoming], timeout=seconds)
                if not done:
                    yield None
                    continue
                item = upcoming.result()
                if item is _END:
                    return
                upcoming = asyncio.ensure_future(anext(source, _END))
                yield item
        finally:
            upcoming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await upcoming


_END: Any = object()


def _closable(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """Streams that hold something have `aclose`; the others need none."""
    return items if hasattr(items, "aclose") else _as_generator(items)  # type: ignore[return-value]


async def _as_generator(items: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    async for item in items:
        yield item
