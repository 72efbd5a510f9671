"""Garbage: what no snapshot needs any more, and packs that are hardly worth their file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hutch.snapshots.disk import Disk
from hutch.snapshots.layout import Layout
from hutch.snapshots.packs import PACK_BYTES, PackReader, PackWriter
from hutch.snapshots.segments import Segments
from hutch.snapshots.zstd import Damaged

LIVE_SHARE = 0.6
"""A pack of which less than this is needed is rewritten."""
SMALL_BYTES = PACK_BYTES // 4
SMALL_PACKS = 16
"""So many packs below `SMALL_BYTES` are put together. A byte is moved at most twice on its way into a large pack."""


@dataclass(frozen=True)
class Collected:
    """What a collection did."""

    dropped_bytes: int
    """Compressed bytes that nobody needed any more."""
    packs_deleted: int
    packs_rewritten: int


class Collector:
    """Runs beside ingests and rebuilds: see `Segments` for what is safe from it."""

    def __init__(self, layout: Layout, disk: Disk, segments: Segments) -> None:
        self._layout = layout
        self._disk = disk
        self._segments = segments
        self._stuck: set[str] = set()  # packs with damage: rewriting them would not free them

    def run(self, step: Callable[[], None]) -> Collected:
        """Collect all garbage there is. `step` is called between segments, and may raise: then what was done is done.
        Raises `OSError`, `DiskFull`."""
        dropped = self._segments.drop_unused()
        deleted = self._delete_empty()
        rewritten = 0
        for group in self._victims():
            rewritten += self._rewrite(group, step)
        return Collected(dropped, deleted, rewritten)

    def _delete_empty(self) -> int:
        names = self._segments.drop_empty_packs()
        for name in names:
            self._disk.unlink(self._layout.pack(name))
        return len(names)

    def _victims(self) -> list[list[str]]:
        """Groups of packs, of which each becomes one."""
        packs = [pack for pack in self._segments.packs() if pack[0] not in self._stuck]
        small = [name for name, size, _ in packs if size < SMALL_BYTES]
        merge = set(small) if len(small) >= SMALL_PACKS else set()
        groups: list[list[str]] = []
        room = 0
        for name, size, live in packs:
            if live < LIVE_SHARE * size or name in merge:
                if live > room:
                    groups.append([])
                    room = PACK_BYTES
                groups[-1].append(name)
                room -= live
        return groups

    def _rewrite(self, names: list[str], step: Callable[[], None]) -> int:
        """Copy what is needed of these packs into one new pack; those of which nothing is left are deleted."""
        writer = PackWriter(self._layout, self._disk)
        try:
            for name in names:
                self._copy(name, writer, step)
            if not writer.segments:
                writer.abandon()
                return 0
            writer.finish()
            self._segments.move(writer)
        except BaseException:
            writer.abandon()
            raise
        self._delete_empty()
        return len(names)

    def _copy(self, name: str, writer: PackWriter, step: Callable[[], None]) -> None:
        """A pack that is missing, or ends early, keeps its segments: whoever reads them is told."""
        try:
            with PackReader(self._layout.pack(name)) as reader:
                for segment in self._segments.of_pack(name):
                    writer.copy(segment, reader.stored(segment))
                    step()
        except (FileNotFoundError, Damaged):
            self._stuck.add(name)
