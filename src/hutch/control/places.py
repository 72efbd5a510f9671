"""Remembers, with every snapshot of a sandbox that has a task, where the task was: a rollback to it brings the task
back to that place too.

What the guest was told to forget of the agent's output (`ack`) is missing in the snapshot as well. So the place that is
remembered is one that was stored before the freeze, and from then until the snapshot is whole nothing more is
acknowledged: whoever stores output and acknowledges it holds the same lock.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hutch.model import SnapshotReason
from hutch.store import Store
from hutch.store.bookmarks import Bookmark
from hutch.store.engine import Transaction
from hutch.store.tasks import TaskRow

_PROGRESS = ("step", "stop", "exec_id", "inputs_done")


class Places:
    """Of one server process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def still(self, sandbox_id: str) -> asyncio.Lock:
        """Held by whoever stores and acknowledges output of the sandbox's task, and by whoever freezes it."""
        lock = self._locks.get(sandbox_id)
        if lock is None:
            lock = self._locks[sandbox_id] = asyncio.Lock()
        return lock

    @asynccontextmanager
    async def kept(self, sandbox_id: str, snapshot: str, reason: SnapshotReason) -> AsyncIterator[None]:
        """Around the taking of a snapshot: its task's place is written down before, and stays true meanwhile."""
        async with self.still(sandbox_id):
            async with self._store.database.write() as connection:
                task = await self._store.tasks.of_sandbox(connection, sandbox_id)
                if task is not None:
                    await self.note(connection, task, snapshot, reason)
            yield

    async def note(self, connection: Transaction, task: TaskRow, snapshot: str, reason: SnapshotReason) -> None:
        """Write down where the task is, as the place of this snapshot. A task that is itself on its way to another
        place has none."""
        if task.step in ("boot", "rollback"):
            return
        reader = await self._store.readers.lock(connection, task.id)
        progress: dict[str, Any] = {name: getattr(task, name) for name in _PROGRESS}
        turn = int(reader.outcome.get("turns", 0))
        row = Bookmark(snapshot, task.id, reason.value, time.time(), turn, progress, reader)
        await self._store.bookmarks.put(connection, row)
