"""A connection whose reading can be stopped for more than one reason."""

from __future__ import annotations

import asyncio
from typing import cast

from hutch.network.resetting import reset

HIGH_WATER = 512 << 10
"""Bytes that wait to be written on one side before the other side is not read."""


class Flow(asyncio.Protocol):
    """The transport, and who holds its reading."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._holders: set[str] = set()
        self.finished = False
        """The other end has sent its last byte, and said so."""

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if self._holders:
            self._transport.pause_reading()

    def write(self, data: bytes | bytearray) -> None:
        """Send; nothing when it is closed."""
        if self._transport is not None and data:
            self._transport.write(data)

    def hold(self, reason: str) -> None:
        """Read no more until this reason is gone."""
        if not self._holders and self.open and self._transport is not None:
            self._transport.pause_reading()
        self._holders.add(reason)

    def holds(self, reason: str) -> bool:
        """Whether it is not read for this reason."""
        return reason in self._holders

    def release(self, reason: str) -> None:
        """This reason is gone."""
        if reason not in self._holders:
            return
        self._holders.discard(reason)
        if not self._holders and self.open and self._transport is not None:
            self._transport.resume_reading()

    @property
    def half_closes(self) -> bool:
        """Whether one direction can end before the other: not with TLS."""
        return self._transport is not None and self._transport.can_write_eof()

    @property
    def peer(self) -> str:
        """The address of the other end; empty when it has none."""
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def finish_writing(self) -> None:
        """Send no more; the other side may."""
        if self.open and self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Once what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """At once, and so that nobody takes it for a proper end."""
        if self._transport is None:
            return
        if self._transport.is_closing():
            self._transport.abort()
        else:
            reset(self._transport)
