"""What an open store is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from weakref import WeakValueDictionary

from hutch.snapshots.catalog import Catalog
from hutch.snapshots.disk import Disk
from hutch.snapshots.hot import HotCache
from hutch.snapshots.index import Index
from hutch.snapshots.layout import Layout
from hutch.snapshots.pace import Pace
from hutch.snapshots.segments import Segments

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """Made when the store opens, and handed to those who work on it."""

    layout: Layout
    disk: Disk
    index: Index
    catalog: Catalog
    segments: Segments
    hot: HotCache
    pace: Pace
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def lock(self, id: str) -> asyncio.Lock:
        """Held while a snapshot's plain files come or go."""
        return self._locks.setdefault(id, asyncio.Lock())

    def set_aside(self, id: str) -> None:
        """Take a snapshot's plain files away: at once under their name, then in truth. Blocks. Raises `OSError`."""
        trash = self.layout.temporary(id)
        try:
            self.disk.rename(self.layout.hot_copy(id), trash)
        except FileNotFoundError:
            return
        self.disk.remove_tree(trash)


async def in_thread(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run `work` in the pool. Cancelled, it still waits for the work to end, as that cannot be stopped: so no one
    goes on to undo what is still being done."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # it was looked at
        raise
