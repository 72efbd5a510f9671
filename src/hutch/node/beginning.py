"""Beginning kernels ahead of thaws, as many as demand, a setting and the host allow, without hurting what runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from hutch.errors import HutchError
from hutch.model import DenyAll
from hutch.node.demand import Wish, allot
from hutch.node.keeping import short_of_memory
from hutch.node.kernels import Begun, Kernels, Rack
from hutch.node.loading import Loader
from hutch.node.parts import Parts
from hutch.node.templates import hidden
from hutch.node.warm import WarmPool

log = structlog.get_logger("hutch.node")

_TICK = 2.0
_SOON = 0.1
_QUIETLY = 0.5
"""Cores for a kernel that nobody waits for."""
_AFTER_DEMAND = 0.2
"""Seconds after a thaw or a freeze in which its caller has the machine."""
_KEEPS = 60.0
"""Seconds after the last demand for which one that waits does not make room for another shape: of three that take turns
two would else be begun and removed again and again, each just before it is wanted."""
_PAUSE = 30.0
"""Seconds after one that could not be begun."""


class Beginner:
    """`busy`: whether somebody waits for a boot or a thaw."""

    def __init__(
        self, parts: Parts, kernels: Kernels, loader: Loader, pool: WarmPool, busy: Callable[[], bool]
    ) -> None:
        self._parts = parts
        self._kernels = kernels
        self._loader = loader
        self._pool = pool
        self._busy = busy
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin kernels as there is demand."""
        if self._kernels.limit > 0:
            self._task = asyncio.create_task(self._keep(), name="kernels-ahead")

    async def stop(self) -> None:
        """Begin no more, and remove all that wait."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._kernels.empty()

    async def _keep(self) -> None:
        pause = 0.0
        while True:
            try:
                self._aim()
                self._drain()
                pause = await self._fill()
            except Exception:
                log.exception("no kernels are begun ahead")
                pause = _PAUSE
            idle = not any(rack.target or rack.waiting for rack in self._kernels.racks.values())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if idle else pause):
                    await self._kernels.news.wait()
            self._kernels.news.clear()

    def _aim(self) -> None:
        """How many there should be of each shape."""
        now, kernels = time.monotonic(), self._kernels
        first = sorted(kernels.racks.values(), key=lambda rack: (not _keeps(rack, now), -rack.demand.last))
        room = min(kernels.limit, self._parts.settings.max_sandboxes - self._parts.registry.alive() - len(self._pool))
        given = allot([Wish(str(n), rack.demand.target(now), 0) for n, rack in enumerate(first)], 0, room)
        for number, rack in enumerate(first):
            rack.target = given[str(number)]
            if rack.demand.target(now) == 0 and not rack.waiting:
                del kernels.racks[rack.shape]  # the next who asks begins another

    def _drain(self) -> None:
        """Give back what is more than there should be, and all before the warm pool has to give way."""
        short = short_of_memory(1.5)
        for rack in list(self._kernels.racks.values()):
            for begun in rack.waiting[: len(rack.waiting) if short else max(0, len(rack.waiting) - rack.target)]:
                self._kernels.drop(begun)

    async def _fill(self) -> float:
        """Begin one, where that is wanted and hurts nobody; seconds until there is more to do."""
        now, racks = time.monotonic(), list(self._kernels.racks.values())
        wanting = [rack for rack in racks if len(rack.waiting) < rack.target and now >= rack.not_before]
        if not wanting or short_of_memory(2):
            return _TICK
        quiet = now - max(rack.demand.last for rack in racks)
        if self._busy() or quiet < _AFTER_DEMAND:
            return _SOON
        rack = max(wanting, key=lambda rack: rack.demand.last)
        try:
            await self._begin(rack)
        except (HutchError, OSError) as error:
            rack.not_before = time.monotonic() + _PAUSE
            log.warning("no kernel begun ahead", reason=str(error))
        return _SOON

    async def _begin(self, rack: Rack) -> None:
        parts, kernels = self._parts, self._kernels
        entry = hidden("", rack.shape.image, rack.shape.resources(_QUIETLY))
        kernels.beginning = rack.shape.image
        try:
            await parts.records.save(entry.record)
            slot = await parts.slots.acquire(entry.id, DenyAll())
            entry.record = entry.record.but(slot=slot.index, address=slot.guest_address)
            await parts.records.save(entry.record)
            handle = await parts.runtime.begin(await self._loader.spec(entry, slot, _QUIETLY))
            used = await parts.runtime.stats(handle)
        except BaseException:
            await asyncio.shield(kernels.remove(entry))
            raise
        finally:
            kernels.beginning = None
        kernels.put(rack, Begun(entry, handle, used.memory_bytes, used.cpu_seconds))


def _keeps(rack: Rack, now: float) -> bool:
    return bool(rack.waiting) and now - rack.demand.last < _KEEPS
