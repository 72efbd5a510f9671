"""Keeping the warm pool as large as demand and the host allow, without hurting what runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import structlog

from hutch.errors import HutchError, SnapshotCorrupt, SnapshotIncompatible, ThawFailed
from hutch.node.demand import Wish, allot
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.process import memory_available
from hutch.node.templates import Templates, hidden
from hutch.node.thawing import Thawer
from hutch.node.warm import Member, Shelf, WarmPool

log = structlog.get_logger("hutch.node")

_TICK = 2.0
_SOON = 0.1
_QUIETLY = 0.5
"""Cores for a thaw that nobody waits for; and after it there is none for as long as it took."""
_AFTER_DEMAND = 0.2
"""Seconds after a create in which its caller has the machine."""
_LONGEST_WAIT = 1.0
"""Seconds for which that holds at most, however fast one create follows the other."""
_PAUSE = 30.0
"""Seconds after a thaw that failed."""
_SHORT_SHARE, _SHORT_LEAST = 0.04, 512 << 20
"""Memory below which the pool drains; it fills above twice as much."""


class Keeper:
    """`busy`: whether somebody waits for a boot or a thaw."""

    def __init__(
        self, parts: Parts, pool: WarmPool, thawer: Thawer, templates: Templates, busy: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._pool = pool
        self._thawer = thawer
        self._templates = templates
        self._busy = busy
        self._rest_until = 0.0
        self._hungry_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fill the pool as there is demand."""
        if self._pool.limit > 0:
            self._task = asyncio.create_task(self._keep(), name="warm-pool")

    async def stop(self) -> None:
        """Fill it no more, and remove all that wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._pool.empty()

    async def _keep(self) -> None:
        pause = 0.0
        while True:
            try:
                self._aim()
                self._drain()
                pause = await self._fill()
            except Exception:
                log.exception("the warm pool is not kept")
                pause = _PAUSE
            await self._nap(pause)

    async def _nap(self, pause: float) -> None:
        """So long, or until there is news; then long enough for whoever has made it to be served."""
        idle = not any(shelf.target or shelf.members for shelf in self._pool.shelves.values())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if idle else pause):
                await self._pool.news.wait()
        self._pool.news.clear()

    def _aim(self) -> None:
        """How many there should be of each template."""
        now, pool = time.monotonic(), self._pool
        newest = sorted(pool.shelves.values(), key=lambda shelf: -shelf.demand.last)
        wishes = [Wish(shelf.template, shelf.demand.target(now), shelf.bytes_each) for shelf in newest]
        room = self._parts.settings.max_sandboxes - self._parts.registry.alive()
        for name, target in allot(wishes, pool.limit, room).items():
            pool.shelves[name].target = target
        for wish in wishes:
            if wish.target == 0 and not pool.shelves[wish.template].members:
                del pool.shelves[wish.template]  # the next who asks begins another

    def _drain(self) -> None:
        """Give back what the host needs, or other sandboxes, or what is more than there should be. Oldest first."""
        pool, settings = self._pool, self._parts.settings
        over = self._parts.registry.alive() + len(pool) - settings.max_sandboxes
        back = 0
        for member in sorted(pool, key=lambda member: member.entry.record.started_at):
            shelf = pool.shelves[member.entry.record.template]
            if over > 0 or len(shelf.members) > shelf.target or short_of_memory(1, back):
                over, back = over - 1, back + member.memory
                pool.drop(member)

    async def _fill(self) -> float:
        """Thaw one, where that is wanted and hurts nobody; seconds until there is more to do."""
        now = time.monotonic()
        hungry = [shelf for shelf in self._pool.shelves.values() if len(shelf.members) < shelf.target]
        wanting = [shelf for shelf in hungry if now >= shelf.not_before]
        if not wanting or short_of_memory(2):
            self._hungry_since = None
            return _TICK
        self._hungry_since = self._hungry_since or now
        shelf = min(wanting, key=lambda shelf: len(shelf.members) / shelf.target)
        if now < self._rest_until:
            return max(_SOON, self._rest_until - now)
        quiet = now - max(each.demand.last for each in self._pool.shelves.values())
        if self._busy() or (quiet < _AFTER_DEMAND and now - self._hungry_since < _LONGEST_WAIT):
            return _SOON
        try:
            await self._add(shelf)
        except (HutchError, OSError) as error:
            shelf.not_before = time.monotonic() + _PAUSE
            log.warning("nothing thawed ahead", template=shelf.template, reason=str(error))
        ended = time.monotonic()
        self._rest_until = ended + (ended - now)
        return max(_SOON, ended - now)

    async def _add(self, shelf: Shelf) -> None:
        pool = self._pool
        image = await asyncio.to_thread(self._parts.images.resolve, shelf.template)
        for member in list(shelf.members):
            if member.entry.record.image != image.hash:  # the template was built anew
                pool.drop(member)
        snapshot, _ = self._templates.find(image, image.recipe.resources)
        if snapshot is None:  # it may be in the making
            shelf.not_before = time.monotonic() + _TICK
            return
        entry = hidden(shelf.template, image.hash, image.recipe.resources)
        pool.filling = image.hash
        try:
            member = await self._thaw(entry, snapshot.id)
        except BaseException as error:
            await asyncio.shield(pool.remove(entry))
            if isinstance(error, SnapshotIncompatible | SnapshotCorrupt | ThawFailed):
                await self._templates.failed(snapshot, error)
            raise
        finally:
            pool.filling = None
        self._templates.worked(snapshot)
        pool.put(shelf, member)

    async def _thaw(self, entry: Entry, snapshot: str) -> Member:
        runtime = self._parts.runtime
        handle, token = await self._thawer.ahead(entry, snapshot, _QUIETLY)
        await runtime.limit_cpus(handle, entry.record.resources.cpus)
        return Member(entry, handle, token, (await runtime.stats(handle)).memory_bytes)


def short_of_memory(times: float, given_back: int = 0) -> bool:
    """Whether the host has less than it should have to spare, or so many times as much."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory_available() + given_back < times * max(_SHORT_LEAST, int(_SHORT_SHARE * memory))
