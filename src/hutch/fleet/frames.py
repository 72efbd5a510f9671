"""The stream of a process's output, as the guest sends it: frames of kind (1 byte), offset after the frame (8 bytes),
length (4 bytes), payload. It comes from a hostile place: everything is checked and bounded."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from hutch.errors import GuestUnavailable

_HEADER = struct.Struct("!BQI")
_MAX_PAYLOAD = 256 << 10
_MAX_OFFSET = 1 << 62


class FrameKind(IntEnum):
    """What a frame carries. `GAP`, `LIMIT`, `EXIT` and `STARTED` carry JSON; `STARTED` comes only as the first frame,
    where the process was started by the same call."""

    KEEPALIVE = 0
    STDOUT = 1
    STDERR = 2
    PTY = 3
    GAP = 4
    LIMIT = 5
    EXIT = 6
    STARTED = 7


@dataclass(frozen=True, slots=True)
class Frame:
    """One piece of a process's output. `offset` is the position after it: what to read on from."""

    kind: FrameKind
    offset: int
    payload: bytes


class FrameParser:
    """Cuts a byte stream into frames. Holds at most one frame that is not whole yet."""

    def __init__(self, start: int = 0) -> None:
        self._buffer = bytearray()
        self._offset = start

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises `GuestUnavailable` for what can be no frame."""
        self._buffer += data
        frames = []
        position = 0
        while len(self._buffer) - position >= _HEADER.size:
            kind, offset, length = _HEADER.unpack_from(self._buffer, position)
            self._check(kind, offset, length)
            end = position + _HEADER.size + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(FrameKind(kind), offset, bytes(self._buffer[position + _HEADER.size : end])))
            self._offset = offset
            position = end
        del self._buffer[:position]
        return frames

    def _check(self, kind: int, offset: int, length: int) -> None:
        if kind > FrameKind.STARTED or length > _MAX_PAYLOAD or not self._offset <= offset <= _MAX_OFFSET:
            raise GuestUnavailable("the sandbox's guest sent a broken output stream")
