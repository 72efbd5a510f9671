"""Reading a snapshot out of its chunks, every byte checked."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hutch.errors import DiskFull, SnapshotCorrupt
from hutch.snapshots.disk import Disk
from hutch.snapshots.layout import Layout
from hutch.snapshots.packs import PackReader
from hutch.snapshots.recipe import HOLE, Extent, Recipe
from hutch.snapshots.segments import Located, Segments
from hutch.snapshots.zstd import Damaged


@dataclass(frozen=True)
class _Use:
    """Where an extent goes: to byte `at` of file number `file`."""

    file: int
    at: int
    extent: Extent


class Rebuild:
    """One pass over the segments of a snapshot, pack by pack and each segment once, whatever the files' order."""

    def __init__(self, layout: Layout, disk: Disk, segments: Segments, id: str, recipe: Recipe) -> None:
        self._layout = layout
        self._disk = disk
        self._segments = segments
        self._id = id
        self._recipe = recipe
        self._uses = _uses(recipe)

    def verify(self, step: Callable[[], None]) -> None:
        """Read and check everything, write nothing. `step` is called for each segment, and may raise.
        Raises `SnapshotCorrupt`."""

        def ignore(_uses: list[_Use], _data: bytes) -> None:
            step()

        self._read(ignore)

    def write(self, target: Path) -> None:
        """Make the snapshot's files in the empty directory `target`; zeros become holes. Not synced: they can be made
        again. Raises `SnapshotCorrupt`, `OSError`."""
        files = [self._disk.create(target / file.name) for file in self._recipe.files]
        try:
            for descriptor, file in zip(files, self._recipe.files, strict=True):
                self._disk.truncate(descriptor, file.size)

            def place(uses: list[_Use], data: bytes) -> None:
                view = memoryview(data)
                for use in uses:
                    part = view[use.extent.offset : use.extent.offset + use.extent.length]
                    self._disk.write(files[use.file], part, use.at)

            self._read(place)
        finally:
            for descriptor in files:
                os.close(descriptor)

    def _read(self, visit: Callable[[list[_Use], bytes], None]) -> None:
        left = set(self._uses)
        for _ in range(2):  # a pack may be rewritten, and its segments move, between `locate` and the reading
            located = self._segments.locate(left)
            by_pack: dict[str, list[Located]] = defaultdict(list)
            for one in located:
                by_pack[one.pack].append(one)
            for name, inside in by_pack.items():
                try:
                    reader = PackReader(self._layout.pack(name))
                except FileNotFoundError:
                    continue
                with reader:
                    for one in inside:
                        visit(self._uses[one.segment.id], self._checked(reader, one))
                        left.discard(one.segment.id)
            if not left:
                return
        raise self._corrupt(min(left), "a segment is missing")

    def _checked(self, reader: PackReader, one: Located) -> bytes:
        try:
            data = reader.read(one.segment)
        except (Damaged, OSError) as error:
            with contextlib.suppress(DiskFull):
                self._segments.distrust(one.segment.id)
            raise self._corrupt(one.segment.id, str(error)) from error
        if any(use.extent.offset + use.extent.length > len(data) for use in self._uses[one.segment.id]):
            raise self._corrupt(one.segment.id, "its recipe does not fit a segment")
        return data

    def _corrupt(self, segment: int, why: str) -> SnapshotCorrupt:
        file = self._recipe.files[self._uses[segment][0].file].name
        return corrupt(self._id, file, why)


def corrupt(id: str, file: str | None, why: str) -> SnapshotCorrupt:
    """The error that names the snapshot and the file."""
    return SnapshotCorrupt(f"snapshot {id} is damaged in {file or 'its index'}: {why}", snapshot=id, file=file)


def _uses(recipe: Recipe) -> dict[int, list[_Use]]:
    uses: dict[int, list[_Use]] = defaultdict(list)
    for number, file in enumerate(recipe.files):
        at = 0
        for extent in file.extents:
            if extent.segment != HOLE:
                uses[extent.segment].append(_Use(number, at, extent))
            at += extent.length
    return dict(uses)
