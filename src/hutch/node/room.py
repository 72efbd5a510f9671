"""Whether the node can take one more sandbox."""

from __future__ import annotations

from hutch.errors import DiskFull, LimitReached
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
        self.reclaimable = 0
        """Bytes of memory that the warm pool gives back as soon as memory is short."""

    def check(self) -> None:
        """Raise `LimitReached` or `DiskFull` when the node cannot take one more."""
        settings = self._parts.settings
        if self._parts.registry.alive() >= settings.max_sandboxes:
            raise LimitReached(
                f"this node has {settings.max_sandboxes} sandboxes, its limit",
                hint="Delete some, or raise HUTCH_MAX_SANDBOXES.",
                limit="max_sandboxes",
            )
        if memory_available() + self.reclaimable < _SPARE_MEMORY:
            raise LimitReached("this node is out of memory", hint="Delete some sandboxes.", limit="node_memory")
        if disk_free(self._parts.home.directory) < SPARE_DISK:
            raise DiskFull("this node's disk is full", hint=f"Free some space below {settings.data_dir}.")
