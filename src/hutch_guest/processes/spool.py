"""One process's output, kept in order as frames: little in memory, the rest in files.

A spool is a row of segments, each a whole number of frames; the oldest are dropped as a whole. A reader holds the
segment it is in, so that it never sees half a frame, even when the segment has been dropped meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable

from hutch_guest.processes import frames

IN_MEMORY = 4 * 1024
"""Up to here a segment needs no file: most commands print little."""
WITHOUT_DISK = 256 * 1024
"""Up to here a spool stays in memory when the disk is full: output that is read at once must not stop for that."""


class Segment:
    """A piece of the stream, from `start` to `end`."""

    __slots__ = ("_data", "_fd", "_path", "_readers", "_sealed", "end", "start")

    def __init__(self, path: str, start: int) -> None:
        self.start = start
        self.end = start
        self._path = path
        self._data: bytearray | None = bytearray()
        self._fd = -1
        self._readers = 0
        self._sealed = False

    def append(self, parts: list[bytes | memoryview], size: int, without_disk: bool) -> None:
        """Add frames of `size` in all; on an OSError nothing was added. `without_disk`: memory will do if it must."""
        data = self._data
        if data is not None and (len(data) + size <= IN_MEMORY or not self._move_to_file(data, without_disk)):
            for part in parts:
                data += part
        else:
            self._write(parts, size, self.end - self.start)
        self.end += size

    def _move_to_file(self, data: bytearray, without_disk: bool) -> bool:
        """Go on in a file; False when it cannot be written but need not be."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            if data:
                self._write([bytes(data)], len(data), 0)
        except OSError:
            self._unlink()
            if without_disk:
                return False
            raise
        self._data = None
        return True

    def _unlink(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            os.unlink(self._path)

    def _write(self, parts: list[bytes | memoryview], size: int, position: int) -> None:
        written = os.pwritev(self._fd, parts, position)
        if written < size:  # short for want of space: the rest says why
            rest = b"".join(parts)[written:]
            if os.pwrite(self._fd, rest, position + written) < len(rest):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position` on; the reader must have entered."""
        offset = position - self.start
        if self._data is not None:
            return bytes(self._data[offset : offset + size])
        return os.pread(self._fd, min(size, self.end - position), offset)

    def enter(self) -> None:
        """A reader comes: from now on it can read, even if the segment is dropped."""
        if self._data is None and self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR)
        self._readers += 1

    def leave(self) -> None:
        """A reader goes."""
        self._readers -= 1
        self._close_unused()

    def seal(self) -> None:
        """Nothing more is added: an unread segment needs no open file."""
        self._sealed = True
        self._close_unused()

    def drop(self) -> None:
        """Forget it, as soon as no reader is in it."""
        self._sealed = True
        if self._data is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._close_unused()

    def _close_unused(self) -> None:
        if self._sealed and self._readers == 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Cursor:
    """A reader's place in a spool. Close it."""

    def __init__(self, spool: Spool, position: int) -> None:
        self._spool = spool
        self._segment: Segment | None = None
        self.position = position

    def read(self, size: int) -> bytes:
        """What comes next, at most about `size` bytes; empty at the end. Begins with a gap frame if some is gone."""
        lead = b""
        segment = self._segment
        if segment is None or self.position >= segment.end:
            segment = self._move()
            if segment is None:
                return self._skip_to_end()
            if segment.start > self.position:
                lead = frames.gap(segment.start, segment.start - self.position)
                self.position = segment.start
        data = segment.read(self.position, size)
        self.position += len(data)
        self._spool.advanced()
        return lead + data

    def _move(self) -> Segment | None:
        """Go to the first segment that has something after our position."""
        found = next((s for s in self._spool.segments if s.end > self.position), None)
        if found is not None and found is not self._segment:
            self._leave()
            found.enter()
            self._segment = found
        return found

    def _skip_to_end(self) -> bytes:
        """Nothing is kept after our position: say so if something was there."""
        dropped, self.position = self._spool.end - self.position, self._spool.end
        return frames.gap(self.position, dropped) if dropped else b""

    def _leave(self) -> None:
        if self._segment is not None:
            self._segment.leave()
            self._segment = None

    def close(self) -> None:
        """Let go."""
        self._leave()
        self._spool.cursors.discard(self)
        self._spool.advanced()


class Spool:
    """The stream. `limit` bounds what is kept; `retain_all` says that nothing unacknowledged is ever dropped."""

    def __init__(self, prefix: str, limit: int, retain_all: bool) -> None:
        self.segments: deque[Segment] = deque()
        self.cursors: set[Cursor] = set()
        self.end = 0
        self.acked = 0
        self.on_room: Callable[[], None] | None = None
        self._prefix = prefix
        self._limit = limit
        self._segment_size = max(limit // 8, frames.MAX_PAYLOAD)
        self.retain_all = retain_all
        self._was_full = False

    @property
    def start(self) -> int:
        """The oldest position that can still be read."""
        return self.segments[0].start if self.segments else self.end

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self.end - self.start

    def cursor(self, position: int) -> Cursor:
        """A new reader at `position`."""
        cursor = Cursor(self, position)
        self.cursors.add(cursor)
        return cursor

    def append(self, kind: int, payload: bytes) -> None:
        """Add a frame (several, if it is long). Raises OSError when the disk has no space; then nothing was added."""
        last = self.segments[-1] if self.segments else None
        if last is None or last.end - last.start >= self._segment_size:
            if last is not None:
                last.seal()
            last = Segment(f"{self._prefix}.{self.end}", self.end)
            self.segments.append(last)
        parts: list[bytes | memoryview] = []
        position = self.end
        view = memoryview(payload)
        for start in range(0, len(view) or 1, frames.MAX_PAYLOAD):
            part = view[start : start + frames.MAX_PAYLOAD]
            position += frames.HEAD.size + len(part)
            parts += (frames.HEAD.pack(kind, position, len(part)), part)
        size = position - self.end
        last.append(parts, size, without_disk=self.size + size <= WITHOUT_DISK)
        self.end = position
        self._trim()

    def full(self) -> bool:
        """Whether the process has to wait until somebody has read (or acknowledged) more."""
        if self.retain_all:
            full = self.end - self.acked >= self._limit
        else:
            full = bool(self.cursors) and self.end - self._slowest() >= self._limit
        self._was_full = self._was_full or full
        return full

    def _slowest(self) -> int:
        return min((cursor.position for cursor in self.cursors), default=self.end)

    def _trim(self) -> None:
        """Drop what need not be kept: what is acknowledged, or over the limit and read by all who follow."""
        keep = self.acked if self.retain_all else min(self.end - self._limit, self._slowest())
        while self.segments and self.segments[0].end <= keep:
            self.segments.popleft().drop()

    def make_space(self) -> bool:
        """Drop the oldest segment although the limit would allow it, as the disk is full; False if there is none."""
        if self.retain_all or len(self.segments) < 2 or self.segments[0].end > self._slowest():
            return False
        self.segments.popleft().drop()
        return True

    def ack(self, offset: int) -> None:
        """Everything before `offset` has been stored elsewhere."""
        self.acked = max(self.acked, min(offset, self.end))
        if self.retain_all:
            self._trim()
        self.advanced()

    def advanced(self) -> None:
        """A reader has moved: if the process waited for that, let it go on."""
        if self._was_full and not self.full():
            self._was_full = False
            self._trim()
            if self.on_room is not None:
                self.on_room()

    def seal(self) -> None:
        """Nothing more comes."""
        if self.segments:
            self.segments[-1].seal()

    def drop(self) -> None:
        """Forget everything."""
        while self.segments:
            self.segments.popleft().drop()
