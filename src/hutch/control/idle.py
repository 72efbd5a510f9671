"""Pauses what nobody uses. Use is: a call that reaches the guest, for as long as it lasts; output of a command, whether
somebody reads it or not; a key at a terminal; a task. A connection that is only open is none."""

from __future__ import annotations

import asyncio
import time

import structlog

from hutch.control.context import Context
from hutch.control.known import KnownGuests
from hutch.control.moves import Moves
from hutch.control.together import each
from hutch.errors import HutchError
from hutch.store.sandboxes import SandboxRow

log = structlog.get_logger("hutch.control")

_TICK = 1.0
_PATIENCE = 20.0
_WRITE = 5.0
"""Seconds by which the row may be behind: what a server that is killed forgets of the use of a sandbox."""


class Idle:
    """Looks at the sandboxes that have an `idle_timeout`."""

    def __init__(self, context: Context, moves: Moves, known: KnownGuests) -> None:
        self._context = context
        self._store = context.store
        self._moves = moves
        self._known = known
        self._printed: dict[str, tuple[float, int]] = {}
        """When the output of a quiet sandbox's commands was first seen as long as it is now, and how long it is."""

    async def watch(self) -> None:
        """For ever."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("idle sandboxes cannot be looked for; it is tried again")
            await asyncio.sleep(_TICK)

    async def sweep(self) -> None:
        """Once."""
        begun = time.time()
        rows = await self._store.sandboxes.may_idle()
        ids = {row.id for row in rows}
        self._known.keep_only(ids, begun)
        for gone in self._printed.keys() - ids:
            del self._printed[gone]
        await each(rows, self._look)

    async def _look(self, row: SandboxRow) -> None:
        timeout, stored = row.idle_timeout or 0.0, row.last_active or row.started_at or row.created_at
        last = max(stored, self._known.last_used(row.id) or 0.0)
        if last - stored >= min(_WRITE, timeout / 4):
            async with self._store.database.write() as connection:
                await self._store.sandboxes.note(connection, row.id, last_active=last)
        quiet = time.time() - last
        if quiet < timeout / 2 or self._known.in_use(row.id):
            self._printed.pop(row.id, None)
        elif await self._silent(row) >= timeout / 2 and quiet >= timeout and not await self._has_task(row):
            await self._pause(row, last)

    async def _silent(self, row: SandboxRow) -> float:
        """Seconds for which its commands are known to have printed nothing."""
        now = time.time()
        try:
            length = sum(state.output_end for state in await self._context.guest_of(row).processes())
        except HutchError as error:  # whether it is used cannot be said now
            log.debug("guest not asked for its output", sandbox=row.id, error=str(error))
            self._printed.pop(row.id, None)
            return 0.0
        since, known = self._printed.get(row.id, (now, length))
        if known != length:
            self._known.touch(row.id)
            since = now
        self._printed[row.id] = since, length
        return now - since

    async def _has_task(self, row: SandboxRow) -> bool:
        task = (await self._store.tasks.of_sandboxes([row.id])).get(row.id)
        return task is not None and task.step != "done"

    async def _pause(self, row: SandboxRow, last: float) -> None:
        def used() -> bool:
            return self._known.in_use(row.id) or (self._known.last_used(row.id) or 0.0) > last

        log.info("paused: nobody uses it", sandbox=row.id, idle_timeout=row.idle_timeout)
        async with asyncio.timeout(_PATIENCE):  # it goes on without us: the others must not wait for it
            await self._moves.pause(row.id, unless=used)
