"""Packs: the files that hold compressed segments. A pack is written once, under a temporary name, and never changed."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import zstandard

from hutch.snapshots.disk import Disk
from hutch.snapshots.layout import Layout
from hutch.snapshots.zstd import Damaged, decompress

SEGMENT_BYTES = 64 << 10
"""Bytes compressed together. To read one page of a segment, all of it is read: for the 40th snapshot of a busy agent
that made 1.5 times its size (128 KiB: 1.75, 16 KiB: 1.14), for 3.3 % stored (3.2 and 3.4 %)."""
PACK_BYTES = 64 << 20
"""A pack is closed when it is this long: few files, and an object that S3 takes in one part."""
LEVEL = 3


@dataclass(frozen=True)
class Segment:
    """A run of chunks, compressed in one piece, and where it lies."""

    id: int
    digest: bytes
    """SHA-256 of the bytes before compression."""
    raw: int
    """Bytes before compression."""
    stored: int
    """Bytes in the pack; as many as `raw` when compression gained nothing and it lies there plain."""
    offset: int


def digest(data: bytes) -> bytes:
    """The name of a chunk, and the seal of a segment. SHA-256 is in the standard library, and with the CPU's own
    instructions takes pages of 4 KiB at 1.2 GB a second and core (BLAKE3: 1.7, BLAKE2b: 0.7)."""
    return hashlib.sha256(data).digest()


class PackWriter:
    """A pack that is being written. `finish` makes it durable, `abandon` removes it."""

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self.name = secrets.token_hex(16)
        self.size = 0
        self.segments: list[Segment] = []
        self._layout = layout
        self._disk = disk
        self._temporary = layout.temporary("pack")
        self._descriptor = disk.create(self._temporary)
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)

    def add(self, id: int, data: bytes) -> Segment:
        """Compress a new segment and append it. Raises `OSError`."""
        packed = self._compressor.compress(data)
        stored = packed if len(packed) < len(data) else data
        return self._append(Segment(id, digest(data), len(data), len(stored), self.size), stored)

    def copy(self, segment: Segment, stored: bytes) -> Segment:
        """Append a segment of another pack as it is. Raises `OSError`."""
        return self._append(Segment(segment.id, segment.digest, segment.raw, segment.stored, self.size), stored)

    def finish(self) -> None:
        """Whole and durable under its name when this returns. Raises `OSError`."""
        self._disk.sync(self._descriptor)
        self._close()
        self._disk.rename(self._temporary, self._layout.pack(self.name))
        self._disk.sync_path(self._layout.packs)

    def abandon(self) -> None:
        """Leave nothing, whether it was finished or not (but not when the index names it)."""
        self._close()
        self._disk.unlink(self._temporary)
        self._disk.unlink(self._layout.pack(self.name))

    def _append(self, segment: Segment, stored: bytes) -> Segment:
        self._disk.write(self._descriptor, stored, self.size)
        self.size += len(stored)
        self.segments.append(segment)
        return segment

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class PackReader:
    """An open pack. It can be read to the end even when it is deleted meanwhile."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> PackReader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def forget(self, segment: Segment) -> None:
        """Let the page cache have none of it: what is read next comes from the disk, and is not kept either."""
        os.posix_fadvise(self._descriptor, segment.offset, segment.stored, os.POSIX_FADV_DONTNEED)

    def stored(self, segment: Segment) -> bytes:
        """The segment's bytes as they lie in the pack. Raises `Damaged` when the pack ends before."""
        data = os.pread(self._descriptor, segment.stored, segment.offset)
        if len(data) != segment.stored:
            raise Damaged("a pack is too short")
        return data

    def read(self, segment: Segment) -> bytes:
        """The segment's bytes, checked. Raises `Damaged`, `OSError`."""
        data = self.stored(segment)
        if segment.stored != segment.raw:
            data = decompress(data, segment.raw)
        if digest(data) != segment.digest:
            raise Damaged("a segment has another hash")
        return data
