"""Making files below one directory without ever following a link there: safe while others rename and link at will."""

from __future__ import annotations

import contextlib
import os

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidPath
from hutch_guest.files.paths import chown

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """A directory, by descriptor, and everything that was newly made in it."""

    def __init__(self, root: str, account: Account) -> None:
        self._account = account
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent_parts: tuple[str, ...] = ()
        self._parent = self._fd
        self._made: list[tuple[tuple[str, ...], bool]] = []

    def close(self) -> None:
        """Close it."""
        self._leave_parent()
        os.close(self._fd)

    def _leave_parent(self) -> None:
        if self._parent != self._fd:
            os.close(self._parent)
        self._parent, self._parent_parts = self._fd, ()

    def parent(self, parts: tuple[str, ...], create: bool = True) -> int:
        """The descriptor of the directory that holds `parts`; missing ones on the way are made."""
        wanted = parts[:-1]
        if wanted == self._parent_parts:
            return self._parent
        self._leave_parent()
        current = self._fd
        for depth, name in enumerate(wanted):
            try:
                found = self._enter(current, wanted[: depth + 1], name, create)
            finally:
                if current != self._fd:
                    os.close(current)
            current = found
        self._parent, self._parent_parts = current, wanted
        return current

    def _enter(self, current: int, parts: tuple[str, ...], name: str, create: bool) -> int:
        if create:
            with contextlib.suppress(FileExistsError):
                self._make(current, parts, name)
        try:
            return os.open(name, _DIRECTORY, dir_fd=current)
        except OSError as error:
            raise InvalidPath(f"'{'/'.join(parts)}' is in the way: it is a link or no directory") from error

    def _make(self, current: int, parts: tuple[str, ...], name: str) -> None:
        os.mkdir(name, 0o755, dir_fd=current)
        self._made.append((parts, True))
        if os.getuid() == 0:
            os.chown(name, self._account.uid, self._account.gid, dir_fd=current, follow_symlinks=False)

    def make_directory(self, parts: tuple[str, ...], mode: int) -> None:
        """A directory; one that is there is kept."""
        parent = self.parent(parts)
        with contextlib.suppress(FileExistsError):
            self._make(parent, parts, parts[-1])
        fd = os.open(parts[-1], _DIRECTORY, dir_fd=parent)
        try:
            os.fchmod(fd, mode & 0o777 | 0o700)
        finally:
            os.close(fd)

    def create_file(self, parts: tuple[str, ...], mode: int) -> int:
        """A new file, open for writing; what was there before is replaced."""
        parent = self.parent(parts)
        self._clear(parent, parts[-1])
        fd = os.open(
            parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent
        )
        self._made.append((parts, False))
        chown(fd, self._account)
        os.fchmod(fd, mode & 0o777)
        return fd

    def make_symlink(self, parts: tuple[str, ...], target: str) -> None:
        """A symbolic link."""
        parent = self.parent(parts)
        self._clear(parent, parts[-1])
        os.symlink(target, parts[-1], dir_fd=parent)
        self._made.append((parts, False))
        if os.getuid() == 0:
            os.chown(parts[-1], self._account.uid, self._account.gid, dir_fd=parent, follow_symlinks=False)

    def make_hardlink(self, parts: tuple[str, ...], source: tuple[str, ...]) -> None:
        """A second name for a file of the tree."""
        held = os.dup(self.parent(source, create=False))
        try:
            parent = self.parent(parts)
            self._clear(parent, parts[-1])
            os.link(source[-1], parts[-1], src_dir_fd=held, dst_dir_fd=parent, follow_symlinks=False)
            self._made.append((parts, False))
        finally:
            os.close(held)

    def _clear(self, parent: int, name: str) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:  # a directory, where a file is to be
            raise InvalidPath(f"'{name}' is a directory") from error

    def undo(self) -> None:
        """Remove everything that was made."""
        for parts, is_directory in reversed(self._made):
            with contextlib.suppress(OSError, InvalidPath):
                parent = self.parent(parts, create=False)
                if is_directory:
                    os.rmdir(parts[-1], dir_fd=parent)
                else:
                    os.unlink(parts[-1], dir_fd=parent)
