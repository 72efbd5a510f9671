"""Writing a file from a request's body: beside its place first, then renamed, so that nobody sees half of it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Sequence

from hutch_guest.accounts import Account
from hutch_guest.errors import DiskFull, InvalidPath, from_os_error
from hutch_guest.files.paths import chown, make_directories
from hutch_guest.files.work import in_thread
from hutch_guest.http.messages import Body

PART = re.compile(r"\..{0,200}\.[0-9a-f]{8}\.part", re.DOTALL)
"""The name of a file that is still being written."""
BATCH = 512 << 10
"""Bytes that are waited for before they are written: each write is a trip to another thread."""
_MOST_PIECES = 512
_RESERVE = 1 << 20
"""Left free by a refused upload, so that a full disk can still be worked with."""


Piece = bytes | memoryview


class Upload:
    """One file being written. Use as an async context manager: leaving it with an error leaves nothing behind.

    An existing file keeps its mode; what is not a regular file (a device) is written in place, as is everything
    when there is an `offset`.
    """

    def __init__(self, path: str, account: Account, mode: int | None = None, offset: int | None = None) -> None:
        self.path = path
        self.size = 0
        self._account = account
        self._mode = mode
        self._offset = offset
        self._fd = -1
        self._temporary: str | None = None

    async def __aenter__(self) -> Upload:
        try:
            await in_thread(self._open)
        except BaseException:  # also when cancelled after it had been opened
            self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                await in_thread(self._commit)
        finally:
            self._close()

    async def write(self, pieces: Sequence[Piece]) -> None:
        """Add to the file."""
        await in_thread(self._write, pieces)

    # in a thread

    def _open(self) -> None:
        try:
            existing = self._existing()
            make_directories(os.path.dirname(self.path), self._account)
            if self._offset is not None or not (existing is None or stat.S_ISREG(existing.st_mode)):
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
                return
            head, name = os.path.split(self.path)
            name = os.fsdecode(os.fsencode(name)[:200])
            self._temporary = os.path.join(head, f".{name}.{os.urandom(4).hex()}.part")
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if self._mode is None:
                self._mode = 0o644 if existing is None else stat.S_IMODE(existing.st_mode)
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def _existing(self) -> os.stat_result | None:
        """What is there now. A link is followed: the file it leads to is written."""
        if not self.path.strip("/"):
            raise InvalidPath(f"path '{self.path}' is a directory")
        if os.path.islink(self.path):
            self.path = os.path.realpath(self.path)
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            raise InvalidPath(f"path '{self.path}' is a directory")
        return found

    def _write(self, pieces: Sequence[Piece]) -> None:
        """All of them with as few calls as it takes, and no copy."""
        left = [memoryview(piece) for piece in reversed(pieces)]
        while left:
            batch = left[: -_MOST_PIECES - 1 : -1]
            try:
                if self._temporary is None and self._offset is None:
                    written = os.writev(self._fd, batch)
                else:
                    written = os.pwritev(self._fd, batch, (self._offset or 0) + self.size)
            except OSError as error:
                raise from_os_error(error, self.path) from error
            self.size += written
            while left and written >= len(left[-1]):
                written -= len(left.pop())
            if written:
                left[-1] = left[-1][written:]

    def _commit(self) -> None:
        try:
            if self._temporary is None:
                if self._mode is not None:
                    os.fchmod(self._fd, self._mode)
                return
            chown(self._fd, self._account)
            os.fchmod(self._fd, self._mode or 0)
            os.rename(self._temporary, self.path)
            self._temporary = None
        except OSError as error:
            raise from_os_error(error, self.path) from error

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = None


async def receive(body: Body, upload: Upload, length: int | None) -> None:
    """Write a whole body. One that cannot fit (by its announced `length`) is refused before a byte is written."""
    check_space(upload.path, length)
    async with upload:
        while pieces := await body.read_many(BATCH):
            await upload.write(pieces)


def check_space(path: str, length: int | None) -> None:
    """Refuse what cannot fit."""
    if not length:
        return
    directory = path
    while True:
        try:
            found = os.statvfs(directory)
            break
        except (FileNotFoundError, NotADirectoryError):
            directory = os.path.dirname(directory)
        except OSError as error:
            raise from_os_error(error, path) from error
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and length > free - _RESERVE and length > 4096:
        raise DiskFull(f"{length} bytes do not fit: {free} bytes are free in the sandbox", free=free)
