"""Requests and responses, as handlers see them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

from hutch_guest.errors import InvalidRequest, PayloadTooLarge

MAX_JSON = 32 << 20
_HIGH_WATER = 1 << 20
_LOW_WATER = 256 << 10


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Body:
    """The request's body as it comes. Holds about a MiB; beyond that the connection is not read."""

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._pause = pause
        self._resume = resume
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Take a piece off the wire."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > _HIGH_WATER and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def feed_end(self) -> None:
        """The body is whole."""
        self.complete = True
        self._wake()

    def fail(self) -> None:
        """The connection is gone; if the body was not whole, `read` says so."""
        self._lost = not self.complete
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self) -> bytes:
        """The next piece; empty at the end. Raises `Disconnected` if the client vanished before."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._lost:
                raise Disconnected
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < _LOW_WATER:
            self._paused = False
            self._resume()
        return data

    async def read_many(self, least: int = 1) -> list[bytes]:
        """Whatever has come, once it is so much, less only at the end; empty at the end."""
        pieces: list[bytes] = []
        size = 0
        while (self._chunks or size < least) and (piece := await self.read()):
            pieces.append(piece)
            size += len(piece)
        return pieces

    async def read_all(self, limit: int = MAX_JSON) -> bytes:
        """The whole body, at most `limit` bytes."""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)


class Request:
    """One request. `params` are the path's variable parts."""

    __slots__ = ("body", "headers", "method", "params", "path", "query")

    def __init__(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: Body) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.body = body
        self.params: list[str] = []

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object (an empty body is an empty object)."""
        raw = await self.body.read_all()
        try:
            value = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequest("the body is not JSON") from error
        if not isinstance(value, dict):
            raise InvalidRequest("the body is not a JSON object")
        return value


Stream = AsyncGenerator[bytes, None]
Takeover = Callable[[asyncio.Transport, bytes], None]


class Response:
    """One answer. A body that is a generator is streamed: with `length` as it is, without in chunks.

    A generator that raises cuts the connection, so that the client does not take a part for the whole. `first` is the
    piece before the generator's own, sent together with the head. `takeover` is called with the connection and what
    has come on it, once the head of a 101 is written: it is no HTTP from there on.
    """

    __slots__ = ("body", "first", "headers", "length", "status", "takeover")

    def __init__(
        self,
        status: int = 200,
        body: bytes | Stream = b"",
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        length: int | None = None,
        first: bytes = b"",
        takeover: Takeover | None = None,
    ) -> None:
        self.takeover = takeover
        self.status = status
        self.body = body
        self.first = first
        self.headers = headers or {}
        self.length = length
        if content_type:
            self.headers["Content-Type"] = content_type


def dump_json(value: object) -> bytes:
    """Compact JSON. File names that are not UTF-8 go through as escaped surrogates."""
    return json.dumps(value, separators=(",", ":")).encode()


def json_response(value: object, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(status, dump_json(value), "application/json")


def empty_response() -> Response:
    """204."""
    return Response(204)
