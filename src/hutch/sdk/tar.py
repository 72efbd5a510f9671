"""Local files as a tar stream, and a tar stream as local files: chunk by chunk, never whole, never on disk between."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

CHUNK = 256 * 1024
_END = b"\0" * (2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Entry:
    """One local file, directory or link, and its name in the tar."""

    path: Path
    name: str
    status: os.stat_result


def scan(source: Path, name: str, exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """`source` under the name `name` ("" for a directory's bare contents), and everything below it.

    Links stay links; sockets, pipes and devices are passed over. A pattern of `exclude` (shell style) leaves out what
    it matches by name or by path relative to `source`.
    """
    source = Path(source)
    status = source.stat()  # a link to a directory, given by hand, means the directory
    if not stat.S_ISDIR(status.st_mode):
        yield Entry(source, name or source.name, status)
        return
    if name:
        yield Entry(source, name, status)
    yield from _below(source, PurePosixPath(name), PurePosixPath(), [pattern.rstrip("/") for pattern in exclude])


def _below(folder: Path, name: PurePosixPath, relative: PurePosixPath, exclude: Sequence[str]) -> Iterator[Entry]:
    with os.scandir(folder) as listing:
        children = sorted(listing, key=lambda child: child.name)
    for child in children:
        below = relative / child.name
        if any(fnmatch(child.name, pattern) or fnmatch(str(below), pattern) for pattern in exclude):
            continue
        status = child.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield Entry(Path(child.path), str(name / child.name), status)
            yield from _below(Path(child.path), name / child.name, below, exclude)
        elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield Entry(Path(child.path), str(name / child.name), status)


def size_of(source: Path, exclude: Sequence[str] = ()) -> int:
    """Bytes of the files that `pack` would send."""
    return sum(entry.status.st_size for entry in scan(source, "", exclude) if stat.S_ISREG(entry.status.st_mode))


def pack(source: Path, name: str = "", exclude: Sequence[str] = ()) -> Iterator[bytes]:
    """The tar stream, in chunks of about `CHUNK` bytes."""
    buffer = bytearray()
    for entry in scan(source, name, exclude):
        for piece in _member(entry):
            buffer += piece
            if len(buffer) >= CHUNK:
                yield bytes(buffer)
                buffer.clear()
    yield bytes(buffer + _END)


def _member(entry: Entry) -> Iterator[bytes]:
    info = tarfile.TarInfo(entry.name)
    info.mode, info.mtime = stat.S_IMODE(entry.status.st_mode), int(entry.status.st_mtime)
    if stat.S_ISDIR(entry.status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(entry.status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(entry.path)
    else:
        info.size = entry.status.st_size
    if info.isreg():
        with open(entry.path, "rb") as file:  # before the header: what cannot be read is not half in the stream
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            yield from _exactly(file.fileno(), info.size)
    else:
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _exactly(descriptor: int, size: int) -> Iterator[bytes]:
    """The file as the header has promised it, though it may shrink or grow meanwhile; padded to whole blocks."""
    left = size
    while left > 0:
        piece = os.read(descriptor, min(CHUNK, left)) or b"\0" * min(CHUNK, left)
        left -= len(piece)
        yield piece
    if odd := size % tarfile.BLOCKSIZE:
        yield b"\0" * (tarfile.BLOCKSIZE - odd)
