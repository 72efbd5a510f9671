"""One connection of a sandbox to a name: judged by what it says first, then passed through as it is."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from typing import Any, cast

from hutch.egress.fence.guarded import Guarded, Wall
from hutch.egress.fence.judging import Judge
from hutch.egress.fence.refusal import Refused
from hutch.network.resetting import reset

HELLO_SECONDS = 10.0
"""Seconds in which a guest must have said what it wants."""
IDLE_SECONDS = 3600.0
_CONNECT_SECONDS = 10.0
LINGER_SECONDS = 60.0
"""For what the guest has sent before it ended its side, and the server does not take."""
_PIECE = 256_000
"""Bytes that are read at once, at most. As long as one of them waits all of them are kept."""
_HIGH_WATER = 16 << 10
"""Bytes that may wait for one side before the other is not read. The kernel's own buffers hold far more."""
_SO_ORIGINAL_DST = 80


class Connection(asyncio.Protocol):
    """The side of the guest, which has its own address for the server's. The server's side is `_Outward`."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._began = self._last = self._loop.time()
        self._guarded: Guarded | None = None
        self._judge: Judge
        self._target = ("", 0)
        self._inward: asyncio.Transport
        self._outward: asyncio.Transport | None = None
        self._pending = bytearray()
        self._opening: asyncio.Task[None] | None = None
        self._sent = self._received = 0
        self._held: dict[object, int] = {}
        """By where they wait: bytes that are more than a little."""
        self._gone = False
        """The guest has ended its side, and something of what it sent before is still to be told to the server."""
        self._half_closed = False
        """One side has said all, the other not."""

    @property
    def decided(self) -> bool:
        """Whether something of it was let through."""
        return self._judge.decided

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inward = cast(asyncio.Transport, transport)
        self._inward.set_write_buffer_limits(high=_HIGH_WATER)
        guarded = self._wall.find((transport.get_extra_info("peername") or ("",))[0])
        try:
            self._target = _original_target(transport.get_extra_info("socket"))
        except OSError:  # it was not led here by a firewall
            guarded = None
        if guarded is None:
            reset(transport)
            return
        self._judge = Judge(guarded, self._target, self._began)
        if not self._wall.room.connections.take(guarded.address):
            self._report(guarded, allowed=False, reason="its connections are more than there is room for")
            reset(transport)
            return
        self._guarded = guarded
        guarded.connections.add(self)
        try:
            if self._judge.admit():
                self._open()
        except Refused as refused:
            self._refuse(refused)

    def data_received(self, data: bytes) -> None:
        if self._guarded is None:
            return
        self._last = self._loop.time()
        try:
            passed = self._judge.feed(data)
        except Refused as refused:
            self._refuse(refused)
            return
        if passed:
            self._send(passed)
        if self._judge.waiting and self._guarded is not None:
            self._inward.pause_reading()

    def eof_received(self) -> bool:
        if self._outward is None or self._half_closed or not self._outward.can_write_eof():
            return False
        self._half_closed = True
        self._outward.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._outward is not None:
            self._outward.pause_reading()
        self._hold(self._inward, self._inward.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._release(self._inward)
        if self._outward is not None:
            self._outward.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._last = self._loop.time()
        if self._outward is not None:
            self._gone = exc is None and self._outward.get_write_buffer_size() > 0
            _ended_as(self._outward, exc)
        if not self._gone:
            self._finish()

    def opened(self, transport: asyncio.Transport) -> None:
        """The server has accepted."""
        if self._guarded is None:
            reset(transport)
            return
        self._outward = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        if self._pending:
            transport.write(bytes(self._pending))
            self._pending.clear()
            self._release(self)
        if not self._judge.waiting:
            self._inward.resume_reading()

    def answered(self, data: bytes) -> None:
        """The server says something."""
        if self._guarded is None:
            return
        self._last = self._loop.time()
        self._received += len(data)
        self._inward.write(data)
        if self._judge.settled:
            return
        waited = self._judge.waiting
        try:
            held = self._judge.answered(data)
        except Refused as refused:
            self._refuse(refused)
            return
        if held:
            self._send(held)
        if waited and not self._judge.waiting:
            self._inward.resume_reading()

    def answered_all(self) -> bool:
        """The server will say no more; whether it may still be told something."""
        if self._guarded is None or self._half_closed or not self._inward.can_write_eof():
            return False
        self._half_closed = True
        self._inward.write_eof()
        return True

    def hold(self) -> None:
        """The server is slow."""
        if self._guarded is None or self._outward is None:
            return
        if not self._gone:
            self._inward.pause_reading()
        self._hold(self._outward, self._outward.get_write_buffer_size())

    def go_on(self) -> None:
        """The server has caught up."""
        if self._guarded is None or self._outward is None:
            return
        self._release(self._outward)
        if not self._judge.waiting and not self._gone:
            self._inward.resume_reading()

    def outward_lost(self, exc: Exception | None) -> None:
        """The server's side has ended."""
        if self._gone:
            self._finish()
        elif self._guarded is not None:
            _ended_as(self._inward, exc)

    def judge_again(self) -> None:
        """The rules have changed."""
        try:
            self._judge.again()
        except Refused as refused:
            self._refuse(refused)

    def sweep(self, now: float) -> None:
        """End it if it has said nothing for too long."""
        if not self.decided and now - self._began > HELLO_SECONDS:
            self._refuse(Refused(f"it has not said within {HELLO_SECONDS:.0f} seconds what it wants"))
        elif self._gone and now - self._last > LINGER_SECONDS:
            self.end("the server does not take what was sent")
        elif now - self._last > IDLE_SECONDS:
            self.end("nothing was said for an hour")

    def end(self, reason: str | None = None) -> None:
        """Reset both sides."""
        self._finish(reason)
        if self._outward is not None:
            reset(self._outward)
        if not self._gone:
            reset(self._inward)

    def _send(self, data: bytes) -> None:
        self._sent += len(data)
        if self._outward is not None:
            self._outward.write(data)
            return
        self._pending += data
        if len(self._pending) > _HIGH_WATER:
            self._inward.pause_reading()
            self._hold(self, len(self._pending))
        self._open()

    def _hold(self, where: object, size: int) -> None:
        """So much waits there. The sandbox's share of memory is bounded: where others' data would have no room, this
        ends."""
        self._release(where)
        size = max(size, _PIECE)
        guarded = self._guarded
        if guarded is None:
            return
        if self._wall.room.held.take(guarded.address, size):
            self._held[where] = size
        else:  # later: we may be in the midst of writing
            reason = "its connections hold more that nobody takes than there is room for"
            self._loop.call_soon(self._refuse, Refused(reason))

    def _release(self, where: object) -> None:
        size = self._held.pop(where, 0)
        if size and self._guarded is not None:
            self._wall.room.held.give(self._guarded.address, size)

    def _open(self) -> None:
        if self._opening is None:
            self._opening = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        address, port = self._target
        brokered = self._judge.brokered
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if brokered:
                    await self._ask_broker()
                else:
                    await self._loop.create_connection(lambda: _Outward(self), address, port)
        except (OSError, TimeoutError) as error:
            self._opening = None
            self.end(f"the {'broker' if brokered else 'server'} does not answer ({type(error).__name__})")

    async def _ask_broker(self) -> None:
        """Have it take this connection. Raises `OSError` when it does not."""
        assert self._guarded is not None
        address, port = self._target
        said = {"sandbox": self._guarded.id, "name": self._judge.said, "address": address, "port": port}
        said["plain"] = self._judge.plain
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.connect(f"\0{self._wall.broker}")
            _, link = await self._loop.create_unix_connection(lambda: _Brokered(self), sock=made)
        except BaseException:
            made.close()
            raise
        await link.take(json.dumps(said).encode() + b"\n")

    def _refuse(self, refused: Refused) -> None:
        self._finish(str(refused), allowed=False)
        self.end()

    def _finish(self, reason: str | None = None, *, allowed: bool | None = None) -> None:
        """Does something once."""
        if self._opening is not None and self._outward is None:
            self._opening.cancel()
        guarded = self._guarded
        if guarded is None:
            return
        self._report(guarded, allowed=self.decided if allowed is None else allowed, reason=reason)
        for where in list(self._held):
            self._release(where)
        guarded.connections.discard(self)
        self._wall.room.connections.give(guarded.address)
        self._guarded = None

    def _report(self, guarded: Guarded, **how: Any) -> None:
        seconds = self._loop.time() - self._began
        self._wall.node.report(
            kind="connection",
            sandbox=guarded.id,
            name=self._judge.said,
            address=self._target[0],
            port=self._target[1],
            rule=self._judge.rule,
            sent=self._sent,
            received=self._received,
            seconds=round(seconds, 3),
            began=time.time() - seconds,
            **how,
        )


class _Outward(asyncio.Protocol):
    """The side of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.opened(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._connection.answered(data)

    def eof_received(self) -> bool:
        return self._connection.answered_all()

    def pause_writing(self) -> None:
        self._connection.hold()

    def resume_writing(self) -> None:
        self._connection.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.outward_lost(exc)


class _Brokered(_Outward):
    """The broker, in the server's place. It says a byte of its own first, when it takes the connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def take(self, line: bytes) -> None:
        """Raises `OSError`."""
        self._transport.write(line)
        try:
            await self._taken
        except BaseException:
            self._transport.abort()
            raise

    def data_received(self, data: bytes) -> None:
        if not self._taken.done():
            self._taken.set_result(None)
            self._connection.opened(self._transport)
            data = data[1:]
        if data:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._taken.done():
            super().connection_lost(exc)
        else:
            self._taken.set_exception(exc or ConnectionResetError())


def _ended_as(transport: asyncio.Transport, exc: Exception | None) -> None:
    """End a side as the other one has ended."""
    if exc is None:
        transport.close()
    else:
        reset(transport)


def _original_target(found: socket.socket) -> tuple[str, int]:
    """Where the guest wanted to go, before the firewall led it here."""
    raw = found.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    port, address = struct.unpack_from(">2xH4s", raw)
    return socket.inet_ntoa(address), port
