"""HTTP to many places over Unix sockets: connections are kept, answers are streamed, nothing is done twice."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from hutch.errors import NodeUnavailable
from hutch.fleet.connection import Body, Connection, Cut, Incoming

_MAX_ACTIVE = 4096
_KEEP = 30.0
_CLOSE_TIMEOUT = 5.0

Opener = Callable[[str, Callable[[], Connection]], Awaitable[Connection]]
"""Connects what it is given to the place of this name. Raises errors of ours, `Cut`, `Silent`."""


class Exchange:
    """An answer whose head has come. Read it to the end or close it."""

    def __init__(self, pool: Pool, connection: Connection, incoming: Incoming, timeout: float) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._timeout = timeout
        self.status = incoming.status
        self.headers = incoming.headers

    async def read(self) -> bytes:
        """The next piece of the body; empty at its end. Raises `Cut`, `Silent`."""
        if self._connection is None:
            raise Cut("it was closed")
        return await self._connection.read(self._timeout)

    def close(self) -> None:
        """Let go of it. What has not come yet will not be waited for: the connection is closed then."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)


class Pool:
    """The connections."""

    def __init__(self, open_: Opener, max_idle: int, keep: float = _KEEP) -> None:
        self._open = open_
        self._max_idle = max_idle
        self._keep = keep
        self._idle: dict[Connection, None] = {}
        """The one that has been idle for longest is the first."""
        self._idle_at: defaultdict[str, list[Connection]] = defaultdict(list)
        self._coming: dict[str, asyncio.Task[None]] = {}
        """Those that are being opened ahead of an exchange."""
        self._all: set[Connection] = set()
        self._turns = asyncio.Semaphore(_MAX_ACTIVE)
        self.active = 0
        """Exchanges that are going on."""
        self._closed = False
        self._gone = asyncio.Event()
        """All are closed, for good."""

    async def exchange(
        self,
        key: str,
        head: bytes,
        body: Body = None,
        *,
        length: int | None = None,
        again: bool = False,
        write_timeout: float,
        read_timeout: float,
    ) -> Exchange:
        """Send a request, and wait for the head of its answer. A kept connection may end at the moment it is used: only
        with `again`, and if nothing at all has come back, is the request (which has no body then) sent once more, over
        a new one. Raises `Cut`, `Silent`, what opening and what `body` raises."""
        await self._turns.acquire()
        self.active += 1
        connection = None
        try:
            if coming := self._coming.get(key):
                await asyncio.wait({coming})
            connection = self._kept(key)
            if connection is not None:
                try:
                    await connection.send(head, body, length, write_timeout)
                    return Exchange(self, connection, await connection.answer(read_timeout), read_timeout)
                except Cut:
                    if not again or body is not None or connection.heard:
                        raise
                    connection.finish()
            connection = await self._opened(key)
            await connection.send(head, body, length, write_timeout)
            return Exchange(self, connection, await connection.answer(read_timeout), read_timeout)
        except BaseException:
            if connection is not None:
                connection.finish()
            self._over()
            raise

    def give_back(self, connection: Connection) -> None:
        """An exchange is over: keep its connection, or close it."""
        self._over()
        if connection.finish():
            self._keep_idle(connection)

    async def ahead(self, key: str) -> None:
        """Open a connection for the next exchange, which waits for it if it comes meanwhile; unless there is one.
        Raises what opening does."""
        if key not in self._coming and not any(connection.key == key for connection in self._all):
            task = self._coming[key] = asyncio.create_task(self._open_ahead(key))
            try:
                await task
            finally:
                del self._coming[key]

    async def _open_ahead(self, key: str) -> None:
        self._keep_idle(await self._opened(key))

    def _keep_idle(self, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        self._idle[connection] = None
        self._idle_at[connection.key].append(connection)
        connection.expiry = asyncio.get_running_loop().call_later(self._keep, connection.abort)
        if len(self._idle) > self._max_idle:
            oldest = next(iter(self._idle))
            self._forget(oldest)
            oldest.abort()

    async def aclose(self) -> None:
        """Close all of them; returns when that is done."""
        self._closed = True
        for connection in list(self._all):
            connection.abort()
        if self._all:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._gone.wait()

    def made(self, connection: Connection) -> None:
        """One more is open."""
        self._all.add(connection)
        if self._closed:
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """One is closed."""
        self._all.discard(connection)
        self._forget(connection)
        if self._closed and not self._all:
            self._gone.set()

    def _kept(self, key: str) -> Connection | None:
        while connections := self._idle_at.get(key):
            connection = connections[-1]
            self._forget(connection)
            if connection.fresh():
                return connection
            connection.abort()
        return None

    def _over(self) -> None:
        self.active -= 1
        self._turns.release()

    async def _opened(self, key: str) -> Connection:
        if self._closed:
            raise NodeUnavailable("the server is stopping")
        connection = await self._open(key, lambda: Connection(self))
        connection.key = key
        if not connection.fresh():
            connection.abort()
            raise Cut("it hung up")
        return connection

    def _forget(self, connection: Connection) -> None:
        """It is idle no more, if it was."""
        if connection not in self._idle:
            return
        del self._idle[connection]
        if connection.expiry is not None:
            connection.expiry.cancel()
        connections = self._idle_at[connection.key]
        connections.remove(connection)
        if not connections:
            del self._idle_at[connection.key]


def head_of(method: str, path: str, query: Mapping[str, Any] | None, headers: Iterable[tuple[str, str]]) -> bytes:
    """The head of a request. Values of the query that are None are left out."""
    given = {key: value for key, value in (query or {}).items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given else path
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode()


def framing(body: Body, length: int | None) -> tuple[str, str]:
    """How a request says where it ends."""
    if body is None or isinstance(body, bytes):
        length = len(body or b"")
    return ("Content-Length", str(length)) if length is not None else ("Transfer-Encoding", "chunked")
