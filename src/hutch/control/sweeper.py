"""Deadlines and retention. They stand in the database and are looked at here; nothing hangs on a timer that a crash
would lose."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import structlog

from hutch.control.context import Context
from hutch.control.lifecycle import DEADLINE_GRACE, Lifecycle
from hutch.control.notifier import stop_of
from hutch.control.outputs import artifact_key
from hutch.control.together import each
from hutch.store.engine import DatabaseFull
from hutch.store.sandboxes import SandboxRow

log = structlog.get_logger("hutch.control")

_TICK = 0.5
_TIDY = 60.0
_OLD_BLOB = 3600.0
_OVER = {"state": "timed_out", "error": "lifetime_over", "detail": "the sandbox's lifetime is over"}


class Sweeper:
    """Ends what is overdue, forgets what is old."""

    def __init__(self, context: Context, lifecycle: Lifecycle) -> None:
        self._context = context
        self._store = context.store
        self._lifecycle = lifecycle

    async def watch(self) -> None:
        """For ever."""
        tidied = 0.0
        while True:
            try:
                await self._keep_room()
                await self.deadlines()
                if time.monotonic() - tidied >= _TIDY:
                    await self.tidy()
                    tidied = time.monotonic()
            except Exception:
                log.exception("sweep failed; it is tried again")
            await asyncio.sleep(_TICK)

    async def _keep_room(self) -> None:
        with suppress(DatabaseFull):  # what is there will do
            await self._store.database.keep_room()

    async def deadlines(self) -> None:
        """End the sandboxes whose lifetime is over. One with a task is left to the task for a while, so that it can
        collect its outputs."""
        await each(await self._store.sandboxes.overdue(time.time()), self._overdue)

    async def _overdue(self, row: SandboxRow) -> None:
        if time.time() < row.deadline + DEADLINE_GRACE and await self._told(row):
            return
        log.info("lifetime over", sandbox=row.id)
        await self._lifecycle.destroy(row.id, "its lifetime is over", _OVER)

    async def tidy(self) -> None:
        """Forget what is past its retention, and end what was left behind."""
        now = time.time()
        for row in await self._store.sandboxes.abandoned():
            await self._lifecycle.destroy(row.id, "its task has ended")
        await self._store.idempotency.sweep(now)
        for upload in await self._store.uploads.expired(now):
            await self._context.blobs.delete(upload.blob)
            await self._store.uploads.forget(upload.id)
        await self._forget(now - self._context.settings.artifact_retention)
        await self._context.blobs.sweep(_OLD_BLOB)

    async def _told(self, row: SandboxRow) -> bool:
        """Whether a task goes on in it; it is told to stop."""
        async with self._store.database.write() as connection:
            task = await self._store.tasks.of_sandbox(connection, row.id)
            if task is None or task.step in ("release", "done"):
                return False
            told = await self._store.tasks.ask_to_stop(connection, task.id, _OVER)
        if told:
            self._context.notifier.notify(stop_of(task.id))
        return True

    async def _forget(self, before: float) -> None:
        for old in await self._store.tasks.with_artifact(before):
            await self._context.blobs.delete(artifact_key(old.id))
            async with self._store.database.write() as connection:
                await self._store.tasks.note(connection, old.id, artifact=None, output_files=[])
        for row in await self._store.sandboxes.ended_before(before):
            task = (await self._store.tasks.of_sandboxes([row.id])).get(row.id)
            if task is not None and task.step != "done":
                continue
            if task is not None:
                await self._context.blobs.delete(artifact_key(task.id))
            await self._store.sandboxes.forget(row.id)
