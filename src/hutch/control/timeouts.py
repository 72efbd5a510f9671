"""Time-outs as E2B means them: a moment, which can be moved, at which a running sandbox is killed or paused. A paused
one has none; whoever wakes it gives it a new one.

They stand in the database beside the sandbox and are looked at here. A sandbox's own `lifetime` is the outer limit.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog

from hutch.control.context import Context
from hutch.control.lifecycle import Lifecycle
from hutch.control.moves import Moves
from hutch.errors import HutchError
from hutch.model import SnapshotKind
from hutch.store.e2b import E2bRow

log = structlog.get_logger("hutch.control")

_TICK = 0.5
_AGAIN = 15.0
"""Seconds until it is tried again to pause a sandbox that cannot be saved."""
_PAUSES = 16
"""At once."""


class Timeouts:
    """Sets them, and sees to those that are over."""

    def __init__(self, context: Context, lifecycle: Lifecycle, moves: Moves) -> None:
        self._rows = context.store.e2b
        self._lifecycle = lifecycle
        self._moves = moves
        self._work: dict[str, asyncio.Task[None]] = {}
        """What is being seen to, by sandbox."""
        self._moved: set[str] = set()
        """Sandboxes of these whose time-out was moved meanwhile."""
        self._pauses = asyncio.Semaphore(_PAUSES)

    async def set(self, sandbox_id: str, seconds: float) -> None:
        """It ends so many seconds from now; 0 and less: now."""
        values = {"timeout": seconds} if seconds > 0 else {}
        if sandbox_id in self._work and seconds > 0:
            self._moved.add(sandbox_id)
        await self._rows.change(sandbox_id, end_at=time.time() + seconds, **values)

    async def prolong(self, row: E2bRow, seconds: float) -> None:
        """It ends no earlier than so many seconds from now."""
        if row.end_at is None or row.end_at < time.time() + seconds:
            await self.set(row.sandbox_id, seconds)

    async def watch(self) -> None:
        """For ever."""
        try:
            while True:
                try:
                    await self.sweep()
                except Exception:
                    log.exception("time-outs cannot be looked at; it is tried again")
                await asyncio.sleep(_TICK)
        finally:
            for work in (left := list(self._work.values())):
                work.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def sweep(self) -> None:
        """Begin with what is due. Each by itself: to save one may take minutes, and the others are not to wait."""
        for row, state in await self._rows.due(time.time()):
            if row.sandbox_id not in self._work:
                work = self._work[row.sandbox_id] = asyncio.create_task(self._due(row, state))
                work.add_done_callback(partial(self._done, row.sandbox_id))

    def _done(self, sandbox_id: str, work: asyncio.Task[None]) -> None:
        del self._work[sandbox_id]
        self._moved.discard(sandbox_id)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.warning("time-out not seen to; it is tried again", sandbox=sandbox_id, error=str(error))

    async def _due(self, row: E2bRow, state: str) -> None:
        if state == "paused":
            await self._rows.change(row.sandbox_id, end_at=None)
        elif row.end_at is None:  # somebody has woken it
            await self._rows.change(row.sandbox_id, end_at=time.time() + row.timeout)
        elif row.options.get("auto_pause"):
            async with self._pauses:
                await self._pause(row)
        elif await self._over(row):
            log.info("time-out over", sandbox=row.sandbox_id)
            await self._lifecycle.destroy(row.sandbox_id, "its time-out is over")

    async def _over(self, found: E2bRow) -> bool:
        """Whether it is still, now that it is acted upon."""
        row = await self._rows.get(found.sandbox_id)
        over = row is not None and row.end_at is not None and row.end_at <= time.time()
        return over and found.sandbox_id not in self._moved

    async def _pause(self, row: E2bRow) -> None:
        if not await self._over(row):
            return
        log.info("paused: its time-out is over", sandbox=row.sandbox_id)
        id, whole = row.sandbox_id, row.options.get("auto_pause_memory", True)
        kind = SnapshotKind.FULL if whole else SnapshotKind.DISK
        try:
            await self._moves.pause(id, unless=lambda: id in self._moved, kind=kind)
        except HutchError:
            if id not in self._moved:
                await self._rows.change(id, end_at=time.time() + _AGAIN)
            raise
        if id not in self._moved:
            await self._rows.change(id, end_at=None)
