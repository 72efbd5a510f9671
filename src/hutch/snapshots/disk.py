"""The few ways in which the store changes the disk.

All changes but SQLite's go through here, so that a test can stop the process, or fill the disk, at any one of them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hutch.errors import DiskFull


class Disk:
    """Plain file operations. Every one may raise `OSError`."""

    def create(self, path: Path) -> int:
        """A descriptor to write a new file, readable by its owner alone."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done

    def truncate(self, descriptor: int, size: int) -> None:
        """Make the file `size` bytes long; what is added is a hole."""
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """What was written survives a power cut from here on."""
        os.fsync(descriptor)

    def sync_path(self, path: Path) -> None:
        """`sync` for a file, or for a directory: the names in it."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """In one step; durable once the target's directory was synced."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """No error when it is absent."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """As much of it as can be removed; what stays is swept when the store is opened next."""
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def telling_full() -> Iterator[None]:
    """Raise `DiskFull` for an `OSError` that means it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk of the node's snapshots is full") from error
        raise
