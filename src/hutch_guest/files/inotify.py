"""The kernel's file notifications (not in the standard library)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator

MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, OVERFLOW, IGNORED, ISDIR = 0x400, 0x4000, 0x8000, 0x40000000
WANTED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF
_ONLYDIR, _NONBLOCK, _CLOEXEC = 0x01000000, os.O_NONBLOCK, os.O_CLOEXEC
_HEAD = struct.Struct("iIII")


class Inotify:
    """One inotify descriptor."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._check(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))

    def _check(self, result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return result

    def add(self, path: str) -> int:
        """Watch a directory; answers its number."""
        return self._check(self._libc.inotify_add_watch(self.fd, os.fsencode(path), WANTED | _ONLYDIR))

    def read(self) -> Iterator[tuple[int, int, str]]:
        """What has happened: number of the directory, mask, name in it."""
        try:
            data = os.read(self.fd, 64 * 1024)
        except BlockingIOError:
            return
        position = 0
        while position < len(data):
            number, mask, _, length = _HEAD.unpack_from(data, position)
            position += _HEAD.size
            yield number, mask, os.fsdecode(data[position : position + length].rstrip(b"\0"))
            position += length

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)
