"""Whether the node can take one more sandbox: its number, its memory, its disk.

What is loaded at once is promised before it is there: of 64 forks each would find the room that all of them need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hutch.errors import DiskFull, LimitReached
from hutch.model import Resources, SnapshotKind, SnapshotRecord
from hutch.node.entry import Entry
from hutch.node.home import disk_free
from hutch.node.parts import Parts
from hutch.node.process import memory_available

_SPARE_MEMORY = 256 << 20
SPARE_DISK = 512 << 20
"""Bytes of disk that have to stay free."""
_FRESH_MEMORY = 64 << 20
"""Bytes of memory that a boot takes: its kernel, and PID 1."""


@dataclass(frozen=True)
class Need:
    """Bytes that a sandbox will take when it has been loaded; of a moment later nobody knows."""

    memory: int = 0
    disk: int = 0

    @classmethod
    def of_boot(cls, resources: Resources) -> Need:
        """Booted from its image."""
        return cls(min(_FRESH_MEMORY, resources.memory_mib << 20))

    @classmethod
    def of(cls, snapshot: SnapshotRecord, resources: Resources) -> Need:
        """Thawed from a snapshot, or booted and given the snapshot's disk."""
        written = snapshot.written_bytes or 0
        if snapshot.kind is SnapshotKind.DISK:
            return cls(cls.of_boot(resources).memory, max(written, snapshot.logical_bytes))
        memory = max(0, snapshot.logical_bytes - written)
        return cls(min(memory, resources.memory_mib << 20), written)

    def beyond(self, entry: Entry) -> Need:
        """What a sandbox that runs, and gives back what it has, needs more than that."""
        has = entry.record.figures
        return Need(max(0, self.memory - has.memory_bytes), max(0, self.disk - has.disk_bytes))


class Room:
    """What has to stay free on the host whatever is asked for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept: dict[str, Need] = {}
        self._coming: dict[str, Need] = {}
        self.spare: dict[str, int] = {}
        """Bytes of memory that are given back as soon as memory is short, and by whom."""

    @contextmanager
    def kept(self, entry: Entry, need: Need) -> Iterator[None]:
        """A place for a paused sandbox until it runs, or for one that runs and leaves the host for a moment. Raises as
        `check`. To be asked for once a sandbox: its lock is held."""
        if entry.running:
            need = need.beyond(entry)
            self._check_bytes(need)
        else:
            self.check(need)
        self._kept[entry.id] = need
        try:
            yield
        finally:
            del self._kept[entry.id]

    @contextmanager
    def coming(self, entry: Entry, need: Need) -> Iterator[None]:
        """Bytes for a new sandbox, whose place is taken already, until it runs. Raises `LimitReached`, `DiskFull`."""
        self._check_bytes(need)
        self._coming[entry.id] = need
        try:
            yield
        finally:
            del self._coming[entry.id]

    def check(self, need: Need = Need()) -> None:
        """Raise `LimitReached` or `DiskFull` when the node cannot take one more, which will need so much."""
        settings = self._parts.settings
        alive = self._parts.registry.alive() + sum(self._away(id) for id in self._kept)
        if alive >= settings.max_sandboxes:
            raise LimitReached(
                f"this node has {settings.max_sandboxes} sandboxes, its limit",
                hint="Delete some, or raise HUTCH_MAX_SANDBOXES.",
                limit="max_sandboxes",
            )
        self._check_bytes(need)

    def _check_bytes(self, need: Need) -> None:
        promised = [*self._kept.values(), *self._coming.values(), need]
        memory, disk = sum(each.memory for each in promised), sum(each.disk for each in promised)
        if memory_available() + sum(self.spare.values()) < _SPARE_MEMORY + memory:
            raise LimitReached("this node is out of memory", hint="Delete some sandboxes.", limit="node_memory")
        if disk_free(self._parts.home.directory) < SPARE_DISK + disk:
            hint = f"Free some space below {self._parts.settings.data_dir}."
            raise DiskFull("this node's disk is full", hint=hint)

    def _away(self, id: str) -> bool:
        """Whether it does not count by itself."""
        entry = self._parts.registry.find(id)
        return entry is not None and entry.paused
