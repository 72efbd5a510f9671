"""Putting a snapshot's plain files into the store: chunk, hash, look up, and write what is new."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hutch.errors import SnapshotCorrupt
from hutch.model import SnapshotRecord
from hutch.snapshots import chunks
from hutch.snapshots.catalog import Catalog
from hutch.snapshots.checksums import of_block
from hutch.snapshots.disk import Disk
from hutch.snapshots.layout import Layout
from hutch.snapshots.packs import PACK_BYTES, SEGMENT_BYTES, PackWriter, digest
from hutch.snapshots.recipe import HOLE, FileRecipe, Recipe
from hutch.snapshots.segments import Chunk, Segments

RAW_BYTES = 4 * PACK_BYTES
"""A pack is closed after so many bytes before compression: the chunks of an open pack are remembered in memory."""


class Ingest:
    """One snapshot on its way into the store. Used once, in one thread."""

    def __init__(self, layout: Layout, disk: Disk, segments: Segments, org: str | None) -> None:
        self._layout = layout
        self._disk = disk
        self._segments = segments
        self._domain = segments.domain(org)
        self._pins: set[int] = set()
        self._stored = 0
        self._pack: PackWriter | None = None
        self._fresh: dict[bytes, Chunk] = {}  # the chunks that the open pack brings
        self._pending: list[bytes] = []  # those that the next segment is made of
        self._pending_bytes = 0
        self._pending_id = 0
        self._raw = 0

    def run(self, id: str, files: Path, catalog: Catalog, step: Callable[[], None]) -> None:
        """Store the files of snapshot `id`. `step` is called about every MiB, and may raise.

        Raises `SnapshotNotFound` when it was deleted meanwhile, `SnapshotCorrupt` when something of it has got lost
        since it was admitted, `OSError` and `DiskFull`. Then no file of ours is half
        there; whole packs may be left that nothing refers to: the next try finds its chunks in them, or the garbage
        collection takes them.
        """
        with self._segments.pinning() as self._pins:
            try:
                sums: dict[str, bytes] = {}
                recipe = Recipe([self._file(path, sums, step) for path in sorted(files.iterdir())])
                _check(catalog.get(id), recipe)
                self._finish_pack()
            finally:
                if self._pack is not None:
                    self._pack.abandon()
            catalog.store(id, recipe, self._stored, sums)

    def _file(self, path: Path, sums: dict[str, bytes], step: Callable[[], None]) -> FileRecipe:
        recipe, found = FileRecipe(path.name), []
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            size = chunks.chunk_size(os.fstat(descriptor).st_size)
            for block in chunks.blocks(descriptor):
                found.append(of_block(block))
                self._block(chunks.cut(block, size), recipe)
                step()
        finally:
            os.close(descriptor)
        sums[path.name] = b"".join(found)
        return recipe

    def _block(self, block: list[bytes], recipe: FileRecipe) -> None:
        hashes = [None if chunks.is_zero(chunk) else digest(chunk) for chunk in block]
        unknown = {hash for hash in hashes if hash is not None and hash not in self._fresh}
        stored = self._segments.find(list(unknown), self._domain, self._pins) if unknown else {}
        for chunk, hash in zip(block, hashes, strict=True):
            if hash is None:
                recipe.add(HOLE, 0, len(chunk))
            else:
                place = stored.get(hash) or self._fresh.get(hash) or self._add(hash, chunk)
                recipe.add(place.segment, place.offset, len(chunk))
        if self._raw >= RAW_BYTES or (self._pack is not None and self._pack.size >= PACK_BYTES):
            self._finish_pack()

    def _add(self, hash: bytes, data: bytes) -> Chunk:
        if self._pending_bytes >= SEGMENT_BYTES:
            self._finish_segment()
        if not self._pending:
            self._pending_id = self._segments.new_id()
        chunk = Chunk(hash, self._pending_id, self._pending_bytes)
        self._pending.append(data)
        self._pending_bytes += len(data)
        self._fresh[hash] = chunk
        return chunk

    def _finish_segment(self) -> None:
        if self._pack is None:
            self._pack = PackWriter(self._layout, self._disk)
        self._stored += self._pack.add(self._pending_id, b"".join(self._pending)).stored
        self._raw += self._pending_bytes
        self._pending, self._pending_bytes = [], 0

    def _finish_pack(self) -> None:
        if self._pending:
            self._finish_segment()
        if self._pack is None:
            return
        self._pack.finish()
        self._segments.add(self._pack, self._fresh.values(), self._domain, self._pins)
        self._pack, self._fresh, self._raw = None, {}, 0


def _check(record: SnapshotRecord, recipe: Recipe) -> None:
    """What is not whole any more must not be kept as if it were."""
    size = sum(file.size for file in recipe.files)
    if size != record.logical_bytes:
        raise SnapshotCorrupt(
            f"snapshot {record.id}: its files have {size} bytes instead of {record.logical_bytes}", snapshot=record.id
        )
