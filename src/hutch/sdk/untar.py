"""Unpack a tar that came out of a sandbox: the sender is hostile, so nothing is written outside the destination.

Only directories, regular files and links that stay inside are made. Every step down the tree is an `openat` that
follows no link, so neither a link in the tar nor one that lies there already can lead the next file astray.
"""

from __future__ import annotations

import io
import os
import posixpath
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hutch.errors import InternalError, InvalidPath
from hutch.sdk.tar import CHUNK

Seen = Callable[[str, int], None]
"""Called with each file's path and size when it is written."""


class _Reader(io.RawIOBase):
    """Chunks as the file that `tarfile` wants to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def unpack(chunks: Iterator[bytes], into: Path, seen: Seen | None = None) -> list[str]:
    """Unpack below `into` (made if needed); the paths of the files written, as named in the tar."""
    into.mkdir(parents=True, exist_ok=True)
    written = []
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tarfile.open(fileobj=io.BufferedReader(_Reader(chunks), CHUNK), mode="r|", bufsize=CHUNK) as tar:
            for member in tar:
                if _place(root, member, tar) and member.isreg():
                    written.append(member.name)
                    if seen:
                        seen(member.name, member.size)
    except tarfile.TarError as error:
        raise InternalError(f"the tar stream is broken: {error}", hint="Try again.") from error
    finally:
        os.close(root)
    return written


def _place(root: int, member: tarfile.TarInfo, tar: tarfile.TarFile) -> bool:
    """Make one member; False when it is of a kind that is passed over."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if member.name.startswith("/") or ".." in parts:
        raise InvalidPath(f"the tar wants to write outside the destination: {member.name!r}", path=member.name)
    if not parts or not (member.isdir() or member.isreg() or _harmless_link(member, parts)):
        return False
    with _folder(root, parts if member.isdir() else parts[:-1]) as folder:
        if member.isreg():
            source = tar.extractfile(member)
            assert source is not None
            _write(folder, parts[-1], source, 0o755 if member.mode & stat.S_IXUSR else 0o644)
        elif member.issym():
            _link(folder, parts[-1], member.linkname)
    return True


def _harmless_link(member: tarfile.TarInfo, parts: list[str]) -> bool:
    if not member.issym() or member.linkname.startswith("/"):
        return False
    return not posixpath.normpath("/".join([*parts[:-1], member.linkname])).startswith("..")


@contextmanager
def _folder(root: int, parts: list[str]) -> Iterator[int]:
    """The directory below `root`, made where it is missing, reached without following a link."""
    current = os.dup(root)
    try:
        for index, part in enumerate(parts):
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=current)
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            except OSError as error:
                path = "/".join(parts[: index + 1])
                raise InvalidPath(f"{path!r} in the destination is a link or no directory", path=path) from error
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def _write(folder: int, name: str, source: IO[bytes], mode: int) -> None:
    """Whole or not at all; replaces a file or a link of that name, and never writes through one."""
    temporary = f".{secrets.token_hex(6)}.part"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as target:
            while piece := source.read(CHUNK):
                target.write(piece)
        _replace(folder, temporary, name)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _link(folder: int, name: str, target: str) -> None:
    temporary = f".{secrets.token_hex(6)}.part"
    os.symlink(target, temporary, dir_fd=folder)
    try:
        _replace(folder, temporary, name)
    except BaseException:
        os.unlink(temporary, dir_fd=folder)
        raise


def _replace(folder: int, temporary: str, name: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError as error:
        raise InvalidPath(f"{name!r} in the destination is a directory", path=name) from error
