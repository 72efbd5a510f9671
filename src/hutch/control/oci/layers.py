"""Layers of an image as lists of paths: what stands in a tar archive that nobody has to trust."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import zstandard

from hutch.errors import InputFailed, PayloadTooLarge

MOST_ENTRIES = 400_000
"""Of one image, in all its layers: they are held in memory."""
_MOST_NAMES = 64 << 20
"""Bytes of all their names."""
_MOST_PATH = 4096
_MOST_NAME = 255
_MOST_DEPTH = 128
"""Directories in one another: all above a path are looked at for each path."""
_MOST_HEADER = 1 << 20
_LONG_HEADERS = (b"L", b"K", b"x", b"g", b"X")
_CHUNK = 1 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Member:
    """One path of one layer. `kind`: file, directory, symlink, hardlink or fifo."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: str = ""
    layer: int = 0
    offset: int = 0
    """Where its content begins in the layer's archive."""


class Layer:
    """What one layer adds, and what it takes away from those below."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.removed: set[str] = set()
        self.emptied: set[str] = set()
        """Directories of which nothing below is seen any more."""


class Budget:
    """What all layers of one image may take together."""

    def __init__(self, most_bytes: int) -> None:
        self._bytes = most_bytes
        self._entries = MOST_ENTRIES
        self._names = _MOST_NAMES

    def spend(self, bytes: int) -> None:
        """Raises `PayloadTooLarge`."""
        self._bytes -= bytes
        if self._bytes < 0:
            raise PayloadTooLarge("the image is larger, unpacked, than images may be here")

    def enter(self, path: str) -> None:
        """One more path. Raises `PayloadTooLarge`."""
        self._entries -= 1
        self._names -= len(path)
        if self._entries < 0 or self._names < 0:
            raise PayloadTooLarge(f"the image has more than {MOST_ENTRIES} paths, or their names are too long together")


class _Info(tarfile.TarInfo):
    """Refuses names and attributes that are megabytes long: they would be read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > _MOST_HEADER:
            raise tarfile.ReadError("a member's header is too large")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


class _Inflater(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def unpack_blob(blob: Path, into: Path, budget: Budget) -> None:
    """The archive in a layer's blob, without its compression. Blocks. Raises `InputFailed`, `PayloadTooLarge`."""
    with blob.open("rb") as source, into.open("wb") as target:
        try:
            for piece in _pieces(source):
                budget.spend(len(piece))
                target.write(piece)
        except (zlib.error, zstandard.ZstdError, EOFError) as error:
            raise InputFailed("a layer of the image does not decompress") from error


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    magic = source.read(4)
    source.seek(0)
    if magic[:2] == b"\x1f\x8b":
        yield from _gunzipped(source)
    elif magic == b"\x28\xb5\x2f\xfd":
        reader = zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(source, read_across_frames=True)
        while piece := reader.read(_CHUNK):
            yield piece
    else:
        while piece := source.read(_CHUNK):
            yield piece


def _gunzipped(source: IO[bytes]) -> Iterator[bytes]:
    """Never more than a piece at a time in memory, whatever the stream says; several members may follow one another."""
    inflater, data = zlib.decompressobj(31), source.read(_CHUNK)
    while data:
        piece = inflater.decompress(data, _CHUNK)
        if piece:
            yield piece
        data = inflater.unconsumed_tail
        if inflater.eof:
            data = inflater.unused_data or source.read(_CHUNK)
            inflater = zlib.decompressobj(31)
        elif not data:
            data = source.read(_CHUNK)
            if not data:
                raise EOFError


def read_layer(archive: Path, number: int, budget: Budget) -> Layer:
    """The layer in an archive. Blocks. Devices are left out. Raises `InputFailed`, `PayloadTooLarge`."""
    found = Layer()
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=cast(IO[bytes], file), tarinfo=_Info) as tar:
            for member in tar:
                _add(found, member, number, budget)
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers every member
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise InputFailed(f"a layer of the image is no whole archive: {str(error)[:200]}") from error
    return found


def _add(layer: Layer, member: tarfile.TarInfo, number: int, budget: Budget) -> None:
    path = plain(member.name)
    if not path:
        return
    budget.enter(path)
    above, _, name = path.rpartition("/")
    if name == _OPAQUE:
        layer.emptied.add(above)
    elif name.startswith(_WHITEOUT):
        gone = name.removeprefix(_WHITEOUT)
        if gone in ("", ".", ".."):
            raise InputFailed("the image removes something that has no name")
        layer.removed.add(f"{above}/{gone}" if above else gone)
    elif (made := _member(member, number)) is not None:
        layer.members.pop(path, None)
        layer.members[path] = made


def _member(member: tarfile.TarInfo, number: int) -> Member | None:
    common = (member.mode & 0o7777, member.uid, member.gid, _nanoseconds(member.mtime))
    if not (0 <= member.uid < 2**32 and 0 <= member.gid < 2**32):
        raise InputFailed("the image has an owner that cannot be one")
    if member.isdir():
        return Member("directory", *common)
    if member.isreg():
        if member.issparse():
            raise InputFailed("the image has a sparse file in a form that is not read here")
        return Member("file", *common, size=member.size, layer=number, offset=member.offset_data)
    if member.issym():
        if not 0 < len(member.linkname.encode(errors="surrogateescape")) <= _MOST_PATH:
            raise InputFailed("the image has a link that leads nowhere")
        return Member("symlink", *common, target=member.linkname)
    if member.islnk():
        return Member("hardlink", *common, target=plain(member.linkname), layer=number)
    return Member("fifo", *common) if member.isfifo() else None


def plain(name: str) -> str:
    """A path below the root, in plain parts; empty for the root. Raises `InputFailed` for what leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise InputFailed(f"the image has an unsafe name: {name[:100]!r}")
    path = "/".join(parts)
    raw = [part.encode(errors="surrogateescape") for part in parts]
    if any(len(part) > _MOST_NAME for part in raw) or sum(map(len, raw)) + len(raw) > _MOST_PATH:
        raise InputFailed(f"the image has a name that is too long: {name[:100]!r}")
    if len(parts) > _MOST_DEPTH:
        raise InputFailed(f"the image has more than {_MOST_DEPTH} directories in one another: {name[:100]!r}")
    return path


def _nanoseconds(mtime: float) -> int:
    return max(-(2**62), min(2**62, int(mtime * 1_000_000_000)))
