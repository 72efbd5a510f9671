"""`POST /hutch/connect`: a connection to a port on which a program listens for this machine only. From outside, such a
port is closed; the guest is inside, and passes the bytes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from hutch_guest.errors import InvalidRequest, PortClosed
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response

_HOSTS = ("127.0.0.1", "::1")
_HIGH_WATER = 512 << 10


async def connect(guest: Guest, request: Request) -> Response:
    """101, and the port's own bytes from there on."""
    text = request.query.get("port", "")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        raise InvalidRequest("port is not a port", field="port")
    end = _End()
    for host in _HOSTS:
        try:
            await asyncio.get_running_loop().create_connection(lambda: end, host, int(text))
        except OSError:
            continue
        headers = {"Connection": "Upgrade", "Upgrade": "hutch-port"}
        return Response(101, headers=headers, takeover=end.join)
    raise PortClosed(f"nothing listens on port {text}")


class _End(asyncio.Protocol):
    """One end of two connections that are one: back-pressure and half-close pass, the abort of one aborts the other."""

    def __init__(self, peer: _End | None = None) -> None:
        self._transport: asyncio.Transport | None = None
        self._peer = peer
        self._finished = False
        self._early: list[bytes] = []

    def join(self, transport: asyncio.Transport, early: bytes) -> None:
        """Be one with the connection that has asked."""
        other = self._peer = _End(self)
        transport.set_protocol(other)
        other.connection_made(transport)
        if transport.is_closing() or self._transport is None:
            transport.abort()
            return self.abort()
        if early:
            self._transport.write(early)
        transport.resume_reading()
        for data in self._early:
            transport.write(data)
        self._early.clear()
        if self._finished:
            transport.write_eof()

    def abort(self) -> None:
        """End it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            self._early.append(data)  # it speaks first; nobody has joined it yet, and will in this very moment
        elif self._peer._transport is not None:
            self._peer._transport.write(data)

    def eof_received(self) -> bool:
        self._finished = True
        other = self._peer
        if other is None:
            return True
        if other._transport is not None:
            with contextlib.suppress(OSError, RuntimeError):
                other._transport.write_eof()
        if other._finished and self._transport is not None:
            self._transport.close()
        return True

    def pause_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._peer is not None and self._peer._transport is not None:
            self._peer._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        other, self._peer = self._peer, None
        if other is None or other._transport is None:
            return
        if error is None and self._finished:
            other._transport.close()
        else:
            other._transport.abort()
