"""One watcher a running sandbox: its deadline, its memory and disk, and its death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from hutch.errors import GuestUnavailable
from hutch.model import LimitBreach
from hutch.node.entry import Entry
from hutch.node.guest import GuestClient
from hutch.node.process import process_end
from hutch.runtime.base import Handle, Runtime, Stats

log = structlog.get_logger("hutch.node")

_LOOK = 1.0
"""Seconds between two full looks, which cost a millisecond. In between, one cheap number is glanced at: memory with
page cache, which may be far above what counts and is never below."""
_GLANCE = 0.1
_GLANCE_CLOSE = 0.02
"""Above half of the limit: a program fills the rest in a fraction of a second."""
_LOOK_CACHED = 0.1
"""Between two full looks while that number is above the limit, though what counts is below half of it."""
_RELIEF = 2.0
"""Seconds from the last killed process within which memory must fall below the limit."""
_SETTLE = 0.7
"""Seconds given to freed memory to come back to the host before another process is picked."""
_DISK_SLACK = 64 << 20

_NOTHING = Stats(cpu_seconds=0, memory_bytes=0, memory_peak_bytes=0, disk_bytes=0, pids=0, oom_kills=0)
_CRASHED = "its kernel ended unexpectedly"
_LIFETIME_OVER = "its lifetime is over"

Ended = Callable[[Entry, str, LimitBreach | None], None]
Breached = Callable[[Entry, LimitBreach], Awaitable[None]]


class Watcher:
    """`breached` is told of a limit that was hit; `ended` that the sandbox is dead, or has to be killed, and why."""

    def __init__(self, runtime: Runtime, guests: GuestClient, breached: Breached, ended: Ended) -> None:
        self._runtime = runtime
        self._guests = guests
        self._breached = breached
        self._ended = ended

    async def watch(self, entry: Entry, handle: Handle) -> None:
        """Until the sandbox ends."""
        death = asyncio.create_task(process_end(handle.pid))
        try:
            first = await self._stats(entry, handle)
            before = first or _NOTHING
            if not await self._runtime.alive(handle):  # it may have ended before `death` knew its number
                return self._ended(entry, _CRASHED, None)
            while True:
                verdict = await self._look(entry, handle, before, death)
                if verdict is not None:
                    return self._ended(entry, *verdict)
                await self._rest(entry, handle, death)
        finally:
            death.cancel()

    async def outlive(self, entry: Entry) -> None:
        """Until the deadline of a paused sandbox, which may be changed meanwhile."""
        while (left := entry.record.deadline - time.time()) > 0:  # noqa: ASYNC110  # a clock has no event
            await asyncio.sleep(min(left, _LOOK))
        self._ended(entry, _LIFETIME_OVER, None)

    async def _rest(self, entry: Entry, handle: Handle, death: asyncio.Task[None]) -> None:
        """Until the next full look is due."""
        limit = _memory_limit(entry)
        end = time.monotonic() + _LOOK
        pause = _LOOK_CACHED if entry.record.figures.memory_bytes < limit // 2 else _GLANCE_CLOSE
        ceiling = self._runtime.memory_ceiling(handle)
        while not death.done() and time.monotonic() < end and time.time() < entry.record.deadline:
            if ceiling <= limit:
                pause = _GLANCE_CLOSE if ceiling > limit // 2 else _GLANCE
            await asyncio.wait({death}, timeout=pause)
            ceiling = self._runtime.memory_ceiling(handle)
            if ceiling > limit:
                return

    async def _look(
        self, entry: Entry, handle: Handle, before: Stats, death: asyncio.Task[None]
    ) -> tuple[str, LimitBreach | None] | None:
        """Why it has to end, if it has to."""
        stats = await self._stats(entry, handle)
        if stats is not None and stats.oom_kills > before.oom_kills:
            return _out_of_memory(entry)
        if death.done():
            if stats is not None and stats.pids_refused > before.pids_refused:
                return _out_of_tasks(entry, stats)
            return _CRASHED, None
        if time.time() >= entry.record.deadline:
            return _LIFETIME_OVER, None
        if stats is None:
            return None
        disk_limit = entry.record.resources.disk_mib << 20
        if stats.disk_bytes > disk_limit + _DISK_SLACK:
            return _killed(entry, "disk", disk_limit, stats.disk_bytes)
        if stats.memory_bytes > _memory_limit(entry) and not await self._relieve(entry, handle, stats, death):
            return _out_of_memory(entry)
        return None

    async def _relieve(self, entry: Entry, handle: Handle, stats: Stats, death: asyncio.Task[None]) -> bool:
        """Have the guest kill its largest processes until memory is below the limit; False when that fails."""
        limit = _memory_limit(entry)
        give_up = time.monotonic() + _RELIEF
        ask_again = 0.0
        while stats.memory_bytes > limit:
            now = time.monotonic()
            if now > give_up:
                return False
            if now > ask_again:
                breach = await self._ask(entry, limit, stats.memory_bytes)
                if breach is not None:
                    give_up, ask_again = time.monotonic() + _RELIEF, time.monotonic() + _SETTLE
                    await self._breached(entry, breach)
            await asyncio.wait({death}, timeout=_GLANCE_CLOSE)
            fresh = await self._stats(entry, handle)
            if death.done() or fresh is None:
                return True  # the next look says what it is
            stats = fresh
        return True

    async def _ask(self, entry: Entry, limit: int, used: int) -> LimitBreach | None:
        """The breach of a process the guest has killed; None when it killed none."""
        record = entry.record
        try:
            breach = await self._guests.relieve(record.address, record.guest_token, limit, used)
        except GuestUnavailable as error:
            log.warning("guest gave no relief", sandbox=entry.id, error=error.detail)
            return None
        return breach if breach.action == "process_killed" else None

    async def _stats(self, entry: Entry, handle: Handle) -> Stats | None:
        try:
            stats = await self._runtime.stats(handle)
        except OSError as error:  # going away under our hands
            log.debug("no stats", sandbox=entry.id, error=str(error))
            return None
        entry.saw(stats)
        return stats


def _memory_limit(entry: Entry) -> int:
    return entry.record.resources.memory_mib << 20


def _out_of_memory(entry: Entry) -> tuple[str, LimitBreach]:
    return _killed(entry, "memory", _memory_limit(entry), entry.record.figures.memory_peak_bytes)


def _out_of_tasks(entry: Entry, stats: Stats) -> tuple[str, LimitBreach]:
    """The host had to refuse the sandbox's kernel a task, which no kernel survives."""
    limit = entry.record.resources.pids
    reason = f"process limit {limit} reached, and passed until the sandbox's kernel had no room; sandbox killed"
    return reason, LimitBreach(limit="pids", amount=limit, used=stats.pids, action="sandbox_killed", message=reason)


def _killed(entry: Entry, limit: str, amount: int, used: int) -> tuple[str, LimitBreach]:
    reason = f"{limit} limit {amount >> 20} MiB reached; sandbox killed"
    return reason, LimitBreach.model_validate(
        {"limit": limit, "amount": amount, "used": used, "action": "sandbox_killed", "message": reason}
    )
