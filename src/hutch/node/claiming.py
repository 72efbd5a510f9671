"""Claiming a member of the warm pool: it is told who it is, and from then on it is an ordinary sandbox."""

from __future__ import annotations

import asyncio

import structlog

from hutch.errors import ThawFailed
from hutch.images.lookup import BuiltImage
from hutch.model import BootRequest, DenyAll
from hutch.node.booting import Stopwatch
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.thawing import Thawer
from hutch.node.warm import Member, WarmPool
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_ANSWERS = 5.0
"""Seconds in which a member has to take over, before another is tried."""


class Claimer:
    """Takes an entry from nothing to `running`, where there is somebody to claim."""

    def __init__(self, parts: Parts, pool: WarmPool, thawer: Thawer, ender: Ender) -> None:
        self._parts = parts
        self._pool = pool
        self._thawer = thawer
        self._ender = ender

    async def claim(self, entry: Entry, image: BuiltImage, request: BootRequest, watch: Stopwatch) -> Handle | None:
        """The record says `running` then; None when nobody is left to claim. Raises what the request is to blame for;
        then its caller cleans up."""
        self._pool.wanted(image, request.resources)
        try:
            while (member := self._pool.take(image, request.resources)) is not None:
                try:
                    return await self._lend(member, entry, request, watch)
                except ThawFailed as error:
                    log.warning("a warm sandbox was not fit to be claimed", member=member.entry.id, reason=error.detail)
                    await self._ender.take_off(entry)
            return None
        finally:
            self._pool.news.set()

    async def _lend(self, member: Member, entry: Entry, request: BootRequest, watch: Stopwatch) -> Handle:
        parts, before = self._parts, member.entry.record
        # The record first: should we be killed from here on, the member is this sandbox's, and goes with it.
        entry.record = entry.record.but(start="warm", member=before.id, slot=before.slot, address=before.address)
        entry.handle = member.handle
        await parts.records.save(entry.record)
        watch.lap("record")
        if request.llm is not None:
            await parts.records.save_grant(entry.id, request.llm)
        if request.secrets is not None:
            await parts.secrets.give(entry.id, request.secrets)
        await parts.gateway.revoke(before.id)
        parts.gateway.grant(entry.id, before.address, request.llm)
        if not isinstance(request.network, DenyAll):
            assert before.slot is not None
            await parts.slots.set_policy(parts.slots.slot(before.slot), request.network)
            await parts.fence.allow(entry.id, before.address, request.network)
        if request.resources.cpus != before.resources.cpus:
            await parts.runtime.limit_cpus(member.handle, request.resources.cpus)
        used = await self._introduce(member, entry, request)
        watch.lap("guest")
        running = entry.record.but(step="running", boot_ms=watch.total, cpu_before=-used)
        await parts.records.save(running)
        entry.record = running
        watch.lap("saved")
        log.info("sandbox claimed", sandbox=entry.id, member=before.id, ms=watch.total, **watch.steps)
        return member.handle

    async def _introduce(self, member: Member, entry: Entry, request: BootRequest) -> float:
        """Returns the CPU seconds that are not its owner's."""
        introduce = self._thawer.introduce(
            entry, member.handle, [member.token], request.env, entry.record.boot_id, within=_ANSWERS
        )
        stats = asyncio.create_task(self._parts.runtime.stats(member.handle))
        try:
            await introduce
            return (await stats).cpu_seconds
        except OSError as error:  # what it used cannot be told: it is dying
            raise ThawFailed(f"{member.entry.id} is dying: {error}") from error
        finally:
            stats.cancel()
            await asyncio.gather(stats, return_exceptions=True)
