"""Unpacking a tar stream that nobody has to trust."""

from __future__ import annotations

import os
import tarfile
from typing import IO, Any, Protocol, cast

from hutch_guest.accounts import Account
from hutch_guest.errors import InvalidPath, InvalidRequest, from_os_error
from hutch_guest.files.paths import make_directories
from hutch_guest.files.tree import Tree
from hutch_guest.files.work import BLOCK

_MAX_SKIPPED = 100


_LONG_HEADERS = (b"L", b"K", b"x", b"g", b"X")
_MAX_HEADER = 1 << 20


class _Member(tarfile.TarInfo):
    """Refuses names and attributes that are megabytes long: they would be read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > _MAX_HEADER:
            raise tarfile.ReadError("a member's header is too large")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class Readable(Protocol):
    """A stream to read from."""

    def read(self, size: int, /) -> bytes: ...


def extract(stream: Readable, root: str, account: Account) -> dict[str, Any]:
    """Unpack below `root`; everything belongs to the account afterwards.

    Absolute names and `..` are an error. Devices, and links that lead out of `root`, are left out and named in
    `skipped`. On an error everything that was newly made is removed again.
    """
    make_directories(root, account)
    try:
        tree = Tree(root, account)
    except OSError as error:
        raise from_os_error(error, root) from error
    try:
        return _extract(stream, tree)
    except BaseException as error:
        tree.undo()
        if isinstance(error, OSError):
            raise from_os_error(error, root) from error
        if isinstance(error, tarfile.TarError | EOFError):
            raise InvalidRequest(f"the body is not a whole tar stream: {error}") from error
        raise
    finally:
        tree.close()


def _extract(stream: Readable, tree: Tree) -> dict[str, Any]:
    files = size = 0
    skipped: list[str] = []
    with tarfile.open(mode="r|*", fileobj=cast(IO[bytes], stream), bufsize=BLOCK, tarinfo=_Member) as archive:
        for member in archive:
            parts = split(member.name)
            if not parts:
                continue
            if member.isdir():
                tree.make_directory(parts, member.mode)
            elif member.isreg():
                size += _write_file(archive, member, tree, parts)
            elif not _make_link(member, tree, parts):
                skipped.append(member.name)
                continue
            files += not member.isdir()
            archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
    return {"files": files, "bytes": size, "skipped": skipped[:_MAX_SKIPPED], "skipped_count": len(skipped)}


def split(name: str) -> tuple[str, ...]:
    """A member's name as path parts; empty for the root itself."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidPath(f"the archive has an unsafe name: '{name[:200]}'")
    return parts


def _write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree, parts: tuple[str, ...]) -> int:
    source = archive.extractfile(member)
    fd = tree.create_file(parts, member.mode)
    try:
        while source is not None and (block := source.read(BLOCK)):
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
        os.utime(fd, (member.mtime, member.mtime))
    finally:
        os.close(fd)
    return member.size


def _make_link(member: tarfile.TarInfo, tree: Tree, parts: tuple[str, ...]) -> bool:
    """Make a link; False when it may not be, or is something else that we do not make."""
    if member.issym() and stays_inside(member.linkname, len(parts) - 1):
        tree.make_symlink(parts, member.linkname)
        return True
    if member.islnk():
        try:
            tree.make_hardlink(parts, split(member.linkname))
            return True
        except (FileNotFoundError, InvalidPath):
            return False
    return False


def stays_inside(target: str, depth: int) -> bool:
    """Whether a link, `depth` directories below the root, cannot lead out of it, whatever other links there are.

    `..` may only stand in front: after a name it would go up from wherever that name leads to.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((index for index, part in enumerate(parts) if part != ".."), len(parts))
    return bool(target) and not target.startswith("/") and ups <= depth and ".." not in parts[ups:]
