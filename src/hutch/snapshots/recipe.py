"""The recipe of a snapshot: which bytes of which segments, in order, make up each of its files.

As bytes it is a zstd frame of one JSON line, `[[name, size, number of extents], ...]`, and then 16 bytes an extent:
segment (u64), offset (u32), length (u32), little-endian. Its SHA-256 stands beside it in the index. As the index has
the SHA-256 of every segment too, a snapshot whose recipe and segments have the right hashes is the one that was stored.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import zstandard

from hutch.snapshots.zstd import Damaged, decompress

HOLE = 0
"""In place of a segment: zeros."""
MOST_LENGTH = 2**32 - 1
_EXTENT = struct.Struct("<QII")


@dataclass(frozen=True)
class Extent:
    """`length` bytes of a segment, from its byte `offset` on."""

    segment: int
    offset: int
    length: int


@dataclass
class FileRecipe:
    """One file. The extents' lengths add up to its size."""

    name: str
    size: int = 0
    extents: list[Extent] = field(default_factory=list)

    def add(self, segment: int, offset: int, length: int) -> None:
        """Append to the file; what continues the last extent makes it longer."""
        self.size += length
        if self.extents:
            last = self.extents[-1]
            follows = segment == HOLE or last.offset + last.length == offset
            if last.segment == segment and follows and last.length + length <= MOST_LENGTH:
                self.extents[-1] = Extent(segment, last.offset, last.length + length)
                return
        self.extents.append(Extent(segment, offset, length))


@dataclass
class Recipe:
    """All files of a snapshot."""

    files: list[FileRecipe] = field(default_factory=list)

    def segments(self) -> set[int]:
        """Every segment that it needs."""
        return {extent.segment for file in self.files for extent in file.extents} - {HOLE}

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    def encode(self) -> tuple[bytes, bytes]:
        """The bytes, and their SHA-256."""
        head = json.dumps([[file.name, file.size, len(file.extents)] for file in self.files])
        parts = [head.encode(), b"\n"]
        parts += [_EXTENT.pack(e.segment, e.offset, e.length) for file in self.files for e in file.extents]
        data = zstandard.ZstdCompressor(level=3).compress(b"".join(parts))
        return data, hashlib.sha256(data).digest()


def decode(data: bytes, digest: bytes) -> Recipe:
    """The recipe. Raises `Damaged`."""
    if hashlib.sha256(data).digest() != digest:
        raise Damaged("its recipe has another hash")
    raw = decompress(data, zstandard.frame_content_size(data))
    head, _, body = raw.partition(b"\n")
    extents = _extents(body)
    return Recipe(
        [FileRecipe(name, size, [next(extents) for _ in range(count)]) for name, size, count in json.loads(head)]
    )


def _extents(body: bytes) -> Iterator[Extent]:
    for segment, offset, length in _EXTENT.iter_unpack(body):
        yield Extent(segment, offset, length)
