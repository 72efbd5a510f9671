"""Time-outs as E2B means them: a moment, which can be moved, at which a running sandbox is killed or paused. A paused
one has none; whoever wakes it gives it a new one.

They stand in the database beside the sandbox and are looked at here. A sandbox's own `lifetime` is the outer limit.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from hutch.control.context import Context
from hutch.control.lifecycle import Lifecycle
from hutch.control.moves import Moves
from hutch.control.together import each
from hutch.errors import HutchError
from hutch.model import SnapshotKind
from hutch.store.e2b import E2bRow

log = structlog.get_logger("hutch.control")

_TICK = 0.5
_AGAIN = 15.0
"""Seconds until it is tried again to pause a sandbox that cannot be saved."""


class Timeouts:
    """Sets them, and sees to those that are over."""

    def __init__(self, context: Context, lifecycle: Lifecycle, moves: Moves) -> None:
        self._rows = context.store.e2b
        self._lifecycle = lifecycle
        self._moves = moves

    async def set(self, sandbox_id: str, seconds: float) -> None:
        """It ends so many seconds from now; 0 and less: now."""
        values = {"timeout": seconds} if seconds > 0 else {}
        await self._rows.change(sandbox_id, end_at=time.time() + seconds, **values)

    async def prolong(self, row: E2bRow, seconds: float) -> None:
        """It ends no earlier than so many seconds from now."""
        if row.end_at is None or row.end_at < time.time() + seconds:
            await self.set(row.sandbox_id, seconds)

    async def watch(self) -> None:
        """For ever."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("time-outs cannot be looked at; it is tried again")
            await asyncio.sleep(_TICK)

    async def sweep(self) -> None:
        """Once."""
        await each(await self._rows.due(time.time()), self._due)

    async def _due(self, found: tuple[E2bRow, str]) -> None:
        row, state = found
        if state == "paused":
            await self._rows.change(row.sandbox_id, end_at=None)
        elif row.end_at is None:  # somebody has woken it
            await self._rows.change(row.sandbox_id, end_at=time.time() + row.timeout)
        elif row.options.get("auto_pause"):
            await self._pause(row)
        else:
            log.info("time-out over", sandbox=row.sandbox_id)
            await self._lifecycle.destroy(row.sandbox_id, "its time-out is over")

    async def _pause(self, row: E2bRow) -> None:
        log.info("paused: its time-out is over", sandbox=row.sandbox_id)
        try:
            whole = row.options.get("auto_pause_memory", True)
            await self._moves.pause(row.sandbox_id, kind=SnapshotKind.FULL if whole else SnapshotKind.DISK)
        except HutchError:
            await self._rows.change(row.sandbox_id, end_at=time.time() + _AGAIN)
            raise
        await self._rows.change(row.sandbox_id, end_at=None)
