"""One HTTP/1.1 connection, from the client's side: a request goes out, its answer comes in, then the next.

What is at the other end may be a hostile guest. The parser is llhttp (httptools, which is uvicorn's too); everything
it could make us keep in memory is bounded, and nothing that comes unasked is believed.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import AsyncIterator
from typing import Protocol, cast

import httptools

from hutch.network.resetting import reset

Body = bytes | AsyncIterator[bytes] | None

_MAX_HEAD = 64 << 10
_HIGH_WATER = 64 << 10
"""Bytes of an answer that wait to be read, before no more are taken from the socket."""
_HEAD = re.compile(rb"[A-Z]+ [!-~]+ HTTP/1\.1\r\n(?:[!-9;-~]+: [\t -~]*\r\n)+\r\n")


class Cut(Exception):
    """The other side hung up, or what it sent is no HTTP."""


class Silent(Exception):
    """The other side did not read or did not write for too long."""


class Incoming:
    """An answer while it comes in."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False
        """Its head is whole."""
        self.complete = False
        self.reusable = False
        """The connection may serve another request after it."""
        self.waiting: list[bytes] = []
        self.held = 0
        self._until_eof = False
        self._head_size = 0
        self._barren = 0
        """Bytes since the last one of a body: heads, trailers, chunk extensions."""
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """More of it. Raises `Cut`."""
        assert self._parser is not None
        before = self.held
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            if self.complete:
                return  # what comes after it unasked spoils the connection, not the answer
            raise Cut("no HTTP") from error
        self._barren = 0 if self.held > before else self._barren + len(data)
        if self._barren > _MAX_HEAD:
            raise Cut("too much HTTP")

    def end(self) -> None:
        """The other side has closed properly: some answers end so."""
        self.reusable = False
        self.complete = self.complete or (self.begun and self._until_eof)

    def take(self) -> bytes:
        """What has come of the body."""
        data = self.waiting[0] if len(self.waiting) == 1 else b"".join(self.waiting)
        self.waiting.clear()
        self.held = 0
        return data

    def discard(self) -> None:
        """No more of it is wanted. (The parser and this refer to each other.)"""
        self._parser = None

    def on_message_begin(self) -> None:
        if self.complete:
            raise Cut("an answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.begun:
            return  # a trailer
        self._head_size += len(name) + len(value)
        if self._head_size > _MAX_HEAD:
            raise Cut("too great a head")
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status == 101 or status < 100:
            raise Cut("a protocol that nobody asked for")
        if status < 200:
            self.headers.clear()  # an interim answer; the real one follows
            return
        coding = self.headers.get("transfer-encoding")
        if coding is not None and coding.strip().lower() != "chunked":
            raise Cut("an encoding that nobody asked for")
        self.status = status
        self.begun = True
        self.reusable = self._parser.should_keep_alive()
        self._until_eof = coding is None and "content-length" not in self.headers

    def on_body(self, data: bytes) -> None:
        self.waiting.append(data)
        self.held += len(data)

    def on_message_complete(self) -> None:
        self.complete = self.begun


class Owner(Protocol):
    """Who is told of connections."""

    def made(self, connection: Connection) -> None:
        """It is open."""

    def lost(self, connection: Connection) -> None:
        """It is closed, for whatever reason. Called once."""


class Connection(asyncio.Protocol):
    """The socket of it."""

    def __init__(self, owner: Owner) -> None:
        self._loop = asyncio.get_running_loop()
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._incoming: Incoming | None = None
        self._failure: Cut | None = None
        self._sent = False
        self._reading = True
        self._writable = True
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.heard = False
        """Anything at all has come of the answer."""
        self.key = ""
        self.expiry: asyncio.TimerHandle | None = None

    # -- what its user calls

    def connected(self) -> None:
        """It is its owner's from now on. (One whose connecting is cancelled late is closed by the loop, and uvloop
        tells nobody.)"""
        if self._transport is not None:
            self._owner.made(self)

    async def send(self, head: bytes, body: Body, length: int | None, timeout: float) -> None:
        """Send a request, a body of unknown `length` in chunks. It stops early when it is refused: the answer has
        come then. Raises `Cut`, `Silent` (when a piece is not taken in time), and what `body` raises."""
        if not _HEAD.fullmatch(head):
            raise Cut("a head that is no HTTP")
        self._incoming, self._sent, self.heard = Incoming(), False, False
        if body is None or isinstance(body, bytes):
            self._write(head + body if body else head)
            await self._room(timeout)
        else:
            self._write(head)
            await self._upload(body, length, timeout)
        self._sent = not self._refused()

    async def answer(self, timeout: float) -> Incoming:
        """The answer, once its head is here. Raises `Cut`, `Silent`."""
        incoming = self._incoming
        assert incoming is not None
        while not incoming.begun:
            await self._something(timeout)
        return incoming

    async def read(self, timeout: float) -> bytes:
        """The next piece of the answer's body; empty at its end. Raises `Cut`, `Silent`."""
        incoming = self._incoming
        if incoming is None:
            raise Cut("it was closed")
        while not incoming.waiting:
            if incoming.complete:
                return b""
            await self._something(timeout)
        data = incoming.take()
        self._flow(True)
        return data

    def finish(self) -> bool:
        """Let go of the answer. Whether the connection may be used again; else it is closed."""
        incoming, self._incoming = self._incoming, None
        again = bool(incoming and incoming.complete and incoming.reusable and self._sent and not self._failure)
        if incoming is not None:
            incoming.discard()
        if not again or not self._open():
            self.abort()
            return False
        self._flow(True)
        return True

    def fresh(self) -> bool:
        """Whether an idle one can still be used: nothing has come, not even its end."""
        return self._open() and not self._poll.poll(0)

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            reset(self._transport)

    # -- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is not None:
            self.heard = True
            try:
                incoming.feed(data)
            except Cut as error:
                self._failure = error
                self.abort()
            if incoming.held > _HIGH_WATER:
                self._flow(False)
            if self._refused():
                _wake(self._writer)
        else:
            self.abort()  # it speaks unasked
        _wake(self._reader)

    def eof_received(self) -> None:
        if self._incoming is not None:
            self._incoming.end()
        self.abort()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        _wake(self._writer)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        _wake(self._reader)
        _wake(self._writer)
        self._owner.lost(self)

    # -- how it is done

    def _open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _flow(self, on: bool) -> None:
        """Take more from the socket, or leave it there for now."""
        if self._reading == on or self._transport is None or self._transport.is_closing():
            return
        self._reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _refused(self) -> bool:
        return self._incoming is not None and self._incoming.status >= 400

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _upload(self, body: AsyncIterator[bytes], length: int | None, timeout: float) -> None:
        left = length
        async for piece in body:
            if not piece:
                continue  # as a chunk it would mean the end
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise Cut("more than was announced")
            await self._look()
            if self._stopped():
                return
            self._write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            await self._room(timeout)
        if left:
            raise Cut("less than was announced")
        if length is None:
            await self._look()
            self._write(b"0\r\n\r\n")
            await self._room(timeout)

    async def _look(self) -> None:
        """A refusal that has come must be read before more is written: writing to a socket whose other end has closed
        throws away what came from it."""
        if self._reading and self._poll.poll(0):
            await asyncio.sleep(0)

    def _stopped(self) -> bool:
        """Nothing more can be sent, or need be."""
        return not self._open() or self._refused()

    async def _room(self, timeout: float) -> None:
        while not self._writable and not self._stopped():
            self._writer = self._loop.create_future()
            await self._within(self._writer, timeout)

    async def _something(self, timeout: float) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._open():
            raise Cut("it hung up")
        self._reader = self._loop.create_future()
        await self._within(self._reader, timeout)

    async def _within(self, waiter: asyncio.Future[None], timeout: float) -> None:
        timer = self._loop.call_later(timeout, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(Silent())
