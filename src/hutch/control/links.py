"""One connection on which the kernel of a sandbox asks for a volume's files. What comes is hostile, and bounded."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

import structlog

from hutch.volumes import Volume
from hutch.volumes.fuse import Mount, Nonsense
from hutch.volumes.wire import MAX_REQUEST, REQUEST

log = structlog.get_logger("hutch.control")

_PRELUDE = 4
_MOST_AGAIN = 10_000
_BATCH, _BATCH_BYTES = 64, 1 << 20
"""Requests that the volume's thread is given at once."""
_HIGH_WATER = MAX_REQUEST + (256 << 10)
"""Bytes of requests that wait. (One may be almost that long.)"""


class Link(asyncio.Protocol):
    """From its prelude (how many requests were sent before) to its end. `lost` is called then, once."""

    def __init__(self, volume: Volume, mount: Mount, lost: Callable[[], None]) -> None:
        self._volume = volume
        self._mount = mount
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._again: int | None = None
        self._fresh = False
        self._work: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def alive(self) -> bool:
        """Whether it may still be used."""
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        """End it at once. What is being done is done."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._drained.set()
        self._lost()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _HIGH_WATER and self._transport is not None:
            self._transport.pause_reading()
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Answer all that has come."""
        try:
            while self._transport is not None and (batch := self._take()):
                replies = await self._volume.run(self._answers, batch)
                if self._transport is not None:
                    self._transport.write(replies)
                    if len(self._buffer) <= _HIGH_WATER:
                        self._transport.resume_reading()
                await self._drained.wait()
        except Nonsense as error:
            log.warning("a sandbox asks nonsense of a volume", volume=self._volume.id, reason=str(error))
            self.abort()
        except RuntimeError:
            self.abort()  # the volume was closed: the server stops
        finally:
            self._work = None

    def _answers(self, batch: list[tuple[bytes, bool]]) -> bytes:
        if self._fresh:
            self._mount.forget()
            self._fresh = False
        return b"".join(self._mount.answer(request, again) for request, again in batch)

    def _take(self) -> list[tuple[bytes, bool]]:
        """The next whole requests, and whether each was sent before. Raises `Nonsense`."""
        if self._again is None:
            if len(self._buffer) < _PRELUDE:
                return []
            (self._again,) = struct.unpack_from("<I", self._buffer)
            if self._again > _MOST_AGAIN:
                raise Nonsense("too many requests at once")
            self._fresh = self._again == 0
            del self._buffer[:_PRELUDE]
        found: list[tuple[bytes, bool]] = []
        at = 0
        while len(found) < _BATCH and at < _BATCH_BYTES and len(self._buffer) - at >= REQUEST.size:
            (length,) = struct.unpack_from("<I", self._buffer, at)
            if not REQUEST.size <= length <= MAX_REQUEST:
                raise Nonsense("a request of no such length")
            if len(self._buffer) - at < length:
                break
            found.append((bytes(self._buffer[at : at + length]), self._again > 0))
            self._again = max(0, self._again - 1)
            at += length
        del self._buffer[:at]
        return found
