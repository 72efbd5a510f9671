"""The frames of a process's output stream: kind (1 byte), offset (8), length (4), payload; big-endian.

`offset` is the position after the frame, in bytes of the stream with its frame heads: what to give as `from` to go on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

KEEPALIVE, STDOUT, STDERR, PTY, GAP, LIMIT, EXIT, STARTED = range(8)
DATA = frozenset({STDOUT, STDERR, PTY})
HEAD = struct.Struct(">BQI")
MAX_PAYLOAD = 64 * 1024


def keepalive(offset: int) -> bytes:
    """A sign of life; takes no place in the stream."""
    return HEAD.pack(KEEPALIVE, offset, 0)


def gap(offset: int, dropped: int) -> bytes:
    """Says that `dropped` bytes before `offset` are not kept any more; takes no place in the stream."""
    payload = json.dumps({"dropped_bytes": dropped}).encode()
    return HEAD.pack(GAP, offset, len(payload)) + payload


def started(state: bytes) -> bytes:
    """Leads the stream of one who starts and follows in one call; takes no place in it."""
    return HEAD.pack(STARTED, 0, len(state)) + state


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """The frames that are whole now: kind, offset, payload."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= HEAD.size:
            kind, offset, length = HEAD.unpack_from(self._buffer, start)
            end = start + HEAD.size + length
            if len(self._buffer) < end:
                break
            yield kind, offset, bytes(self._buffer[start + HEAD.size : end])
            start = end
        del self._buffer[:start]
