"""Whether the node can take one more sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hutch.errors import DiskFull, LimitReached
from hutch.node.entry import Entry
from hutch.node.home import disk_free
from hutch.node.parts import Parts
from hutch.node.process import memory_available

_SPARE_MEMORY = 256 << 20
SPARE_DISK = 512 << 20
"""Bytes of disk that have to stay free."""


class Room:
    """What has to stay free on the host whatever is asked for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept: dict[str, int] = {}
        self.reclaimable = 0
        """Bytes of memory that the warm pool gives back as soon as memory is short."""

    @contextmanager
    def kept(self, entry: Entry) -> Iterator[None]:
        """A place for a paused sandbox until it runs, or for one that runs and leaves the host for a moment. Raises as
        `check`. To be asked for once a sandbox: its lock is held."""
        waiting = 0 if entry.running else _size(entry)
        if not entry.running:
            self.check(waiting)
        self._kept[entry.id] = waiting
        try:
            yield
        finally:
            del self._kept[entry.id]

    def check(self, memory: int = 0) -> None:
        """Raise `LimitReached` or `DiskFull` when the node cannot take one more, which will need so many bytes."""
        settings = self._parts.settings
        alive = self._parts.registry.alive() + sum(self._away(id) for id in self._kept)
        if alive >= settings.max_sandboxes:
            raise LimitReached(
                f"this node has {settings.max_sandboxes} sandboxes, its limit",
                hint="Delete some, or raise HUTCH_MAX_SANDBOXES.",
                limit="max_sandboxes",
            )
        if memory_available() + self.reclaimable < _SPARE_MEMORY + sum(self._kept.values()) + memory:
            raise LimitReached("this node is out of memory", hint="Delete some sandboxes.", limit="node_memory")
        if disk_free(self._parts.home.directory) < SPARE_DISK:
            raise DiskFull("this node's disk is full", hint=f"Free some space below {settings.data_dir}.")

    def _away(self, id: str) -> bool:
        """Whether it does not count by itself."""
        entry = self._parts.registry.find(id)
        return entry is not None and entry.paused


def _size(entry: Entry) -> int:
    """Bytes of memory that a paused sandbox takes at most when it comes back: as many as it was saved in."""
    return min(entry.record.figures.disk_bytes, entry.record.resources.memory_mib << 20)
