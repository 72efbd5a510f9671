"""The hot cache: which snapshots lie there as plain files, and which of them may go."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

_READ_AHEAD = 128 << 10
"""Bytes that every kernel reads at one word; of more it leaves out the rest."""


TRUSTED_SECONDS = 3600.0
"""For so long plain files are used without being checked again."""


class HotCache:
    """The books of `hot/`, kept in memory and by the event loop's thread only. Moving files is the caller's work."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._bytes: dict[str, int] = {}  # least recently used first
        self._leases: Counter[str] = Counter()
        self._checked: dict[str, float] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._bytes

    @property
    def total(self) -> int:
        """Bytes that the plain files take on the disk."""
        return sum(self._bytes.values())

    def add(self, id: str, size: int) -> None:
        """A snapshot's plain files are there."""
        self._bytes[id] = size

    def forget(self, id: str) -> None:
        """They are gone, or are about to go."""
        self._bytes.pop(id, None)
        self._checked.pop(id, None)

    def checked(self, id: str) -> None:
        """The files are what was stored."""
        self._checked[id] = time.monotonic()

    def is_trusted(self, id: str) -> bool:
        """Whether they were checked not long ago."""
        checked = self._checked.get(id)
        return checked is not None and time.monotonic() - checked < TRUSTED_SECONDS

    def ids(self) -> list[str]:
        """All that have plain files, in the order of their ids."""
        return sorted(self._bytes)

    def lease(self, id: str, *, using: bool = True) -> None:
        """Someone reads them: they stay until `release`. They count as used now, unless they are only looked at."""
        self._leases[id] += 1
        if using and id in self._bytes:
            self._bytes[id] = self._bytes.pop(id)

    def release(self, id: str) -> bool:
        """End one lease; whether the files, forgotten meanwhile, are now to be removed."""
        self._leases[id] -= 1
        if self._leases[id] > 0:
            return False
        del self._leases[id]
        return id not in self._bytes

    def leased(self, id: str) -> bool:
        """Whether anyone reads them now."""
        return id in self._leases

    def surplus(self, stored: Container[str]) -> list[str]:
        """Whose plain files should go so that the rest fits the limit: the least recently used, and only of those that
        are whole in chunks and that nobody reads."""
        over = self.total - self.limit
        going = []
        for id, size in self._bytes.items():
            if over <= 0:
                break
            if id in stored and not self.leased(id):
                going.append(id)
                over -= size
        return going


def read_ahead(directory: Path) -> None:
    """Have the kernel read the files into memory that it has to spare: a freeze writes past its page cache, and a thaw
    reads one page after the other. Blocks for some microseconds a page."""
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    for offset in range(0, entry.stat(follow_symlinks=False).st_size, _READ_AHEAD):
                        os.posix_fadvise(descriptor, offset, _READ_AHEAD, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(descriptor)


def allocated(directory: Path) -> int:
    """Bytes that the files of a directory take on the disk (holes take none). Raises `OSError`."""
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
