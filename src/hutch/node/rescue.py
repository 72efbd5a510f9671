"""What a new daemon does with sandboxes that are paused, or that were being frozen or thawed when the last one went."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.state import States
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")


class Rescue:
    """Part of `hutch.node.sweep`. `watch` begins to watch an entry."""

    def __init__(self, parts: Parts, states: States, watch: Callable[[Entry], None]) -> None:
        self._parts = parts
        self._states = states
        self._watch = watch

    async def is_frozen(self, entry: Entry) -> bool:
        """See `Pauser.is_whole`."""
        return await self._states.pauser.is_whole(entry)

    async def go_on(self, entry: Entry, handle: Handle) -> None:
        """A sandbox that was found running: undo what a freeze had changed. Raises `OSError`."""
        await self._parts.runtime.limit_cpus(handle, entry.record.resources.cpus)
        await self._parts.records.sweep_frozen(entry.id)
        if entry.record.step == "pausing":
            record = entry.record.but(step="running", taking=None)
            await self._parts.records.save(record)
            entry.record = record
        await self._states.finish(entry)

    async def rest(self, entry: Entry) -> bool:
        """Whether it is paused; if it should be and is not quite, it is afterwards."""
        step = entry.record.step
        if step == "pausing":
            return await self.is_frozen(entry) and await self._finish(entry)
        if step not in ("paused", "resuming"):
            return False
        stands_on = entry.record.fallback or entry.record.snapshot
        if stands_on is None or await self._parts.snapshots.find(stands_on) is None:
            return False
        if step == "resuming":
            return await self._finish(entry)
        await self._parts.records.strip(entry.id)
        await self._states.finish(entry)
        self._watch(entry)
        return True

    def was_lost(self, entry: Entry) -> bool:
        """Whether a power cut took what it stands on."""
        return not set(entry.record.stands_on).isdisjoint(self._parts.snapshots.lost)

    async def _finish(self, entry: Entry) -> bool:
        entry.record = entry.record.but(slot=None)  # the pool's start has removed it
        try:
            await self._states.finish(entry)
        except Exception as error:
            log.error("not paused yet; will be tried again", sandbox=entry.id, exc_info=error)
        return True
