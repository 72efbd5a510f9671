"""Takes questions over UDP and TCP."""

from __future__ import annotations

import asyncio
import struct
from typing import cast

from hutch.egress.fence.guarded import Guarded, Wall
from hutch.egress.fence.questions import respond
from hutch.network.resetting import reset

_STREAM_SECONDS = 10.0


class Datagrams(asyncio.DatagramProtocol):
    """Questions over UDP."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._transport: asyncio.DatagramTransport
        self._under_way: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._wall.find(addr[0]) is None:
            return
        task = asyncio.ensure_future(self._respond(data, addr))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _respond(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = await respond(self._wall, addr[0], data)
        if answer is not None:
            self._transport.sendto(answer, addr)


class Stream(asyncio.Protocol):
    """Questions over TCP, one after the other."""

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._buffer = bytearray()
        self._guarded: Guarded | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        guarded = self._wall.find((transport.get_extra_info("peername") or ("",))[0])
        if guarded is None or not self._wall.room.streams.take(guarded.address):
            reset(transport)
            return
        self._guarded = guarded
        self._timer = asyncio.get_running_loop().call_later(_STREAM_SECONDS, reset, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > 4096:
            reset(self._transport)
        elif self._task is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._guarded is not None:
            self._wall.room.streams.give(self._guarded.address)
            self._guarded = None

    def _next(self) -> None:
        if self._guarded is None or len(self._buffer) < 2:
            return
        (length,) = struct.unpack_from(">H", self._buffer)
        if len(self._buffer) < 2 + length:
            return
        message = bytes(self._buffer[2 : 2 + length])
        del self._buffer[: 2 + length]
        self._task = asyncio.ensure_future(self._respond(self._guarded.address, message))

    async def _respond(self, guest: str, message: bytes) -> None:
        answer = await respond(self._wall, guest, message)
        self._task = None
        if answer is None:
            reset(self._transport)
            return
        self._transport.write(struct.pack(">H", len(answer)) + answer)
        self._next()
