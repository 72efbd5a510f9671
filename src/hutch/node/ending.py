"""The end of a sandbox, whatever the cause: everything of it leaves the host, the journal says why, a tombstone
stays until the server has seen it."""

from __future__ import annotations

import time

import structlog

from hutch.errors import DiskFull
from hutch.model import LimitBreach
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.records import MAX_BREACHES

log = structlog.get_logger("hutch.node")

TOMBSTONE_SECONDS = 7 * 86400.0


class Ender:
    """Every method may be repeated after a failure at any of its lines."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def end(self, entry: Entry, reason: str, breach: LimitBreach | None = None) -> None:
        """End the sandbox; `reason` is for a person. Does nothing when it is dead; the first reason stays."""
        async with entry.lock:
            if entry.record.step == "dead":
                return
            if entry.record.step != "ending":
                await self._begin(entry, reason, breach)
            await self.clear(entry)
            await self._drop_snapshots(entry)
            await self._parts.journal.insist(entry.id, "sandbox_dead", _obituary(entry))
            entry.record = entry.record.but(step="dead", ended_at=time.time())
            await self.save(entry)
            log.info("sandbox dead", sandbox=entry.id, reason=entry.record.death)

    async def clear(self, entry: Entry) -> None:
        """Remove all of it from the host but its record."""
        await self._parts.records.save_grant(entry.id, None)
        await self._parts.records.save_secrets(entry.id, None)
        await self.take_off(entry)
        await self._parts.records.strip(entry.id)

    async def take_off(self, entry: Entry) -> None:
        """Remove all that runs: connections, model calls, kernel, slot."""
        parts, id = self._parts, entry.id
        parts.dialer.drop(id)
        parts.gateway.drop(entry.record.address)
        parts.identities.drop(entry.record.address)
        await parts.fence.forget(entry.record.address)
        await parts.secrets.rest(entry.id)
        parts.egress.forget(entry)
        final = await parts.gateway.revoke(id)
        if final is not None:  # a call that was cut before its answer has counted tokens, and no request
            entry.record = entry.record.but(llm=final)
        await self.end_kernel(entry)

    async def end_kernel(self, entry: Entry) -> None:
        """Remove its kernel and its slot."""
        parts = self._parts
        runtime_id = entry.record.runtime_id
        await parts.runtime.kill(runtime_id, parts.records.runtime_directory(runtime_id))
        entry.handle = None
        if entry.record.member is not None:
            await parts.records.remove(entry.record.member)
            entry.record = entry.record.but(member=None)
        if entry.record.slot is not None:
            slot = parts.slots.slot(entry.record.slot)
            # Forgotten first: a released slot is lent again, and must never be released twice in our name. Should we
            # be killed in between, the pool's own start removes what no record claims.
            entry.record = entry.record.but(slot=None)
            await parts.slots.release(slot)

    async def forget(self, entry: Entry) -> None:
        """Remove a dead sandbox's tombstone."""
        async with entry.lock:
            await self._parts.records.remove(entry.id)
            await self._parts.journal.forget(entry.id)
            self._parts.registry.remove(entry)

    async def breached(self, entry: Entry, breach: LimitBreach) -> None:
        """Note a limit that the sandbox has hit: in the journal first, from which a new daemon takes it again."""
        log.info("limit", sandbox=entry.id, message=breach.message)
        if len(entry.record.breaches) < MAX_BREACHES or breach.action == "sandbox_killed":
            await self._parts.journal.insist(entry.id, "limit", breach.model_dump(mode="json"))
        entry.record = entry.record.but(breaches=[*entry.record.breaches, breach][-MAX_BREACHES:])
        await self.save(entry)

    async def _drop_snapshots(self, entry: Entry) -> None:
        """A full disk must not keep a sandbox from ending: the janitor tries again."""
        try:
            await self._parts.snapshots.drop_of(entry.id)
        except DiskFull as error:
            log.error("snapshots not removed", sandbox=entry.id, error=str(error))

    async def save(self, entry: Entry) -> None:
        """Write the record where it can be done without: on a full disk a sandbox must still be able to end."""
        try:
            await self._parts.records.save(entry.record)
        except OSError as error:
            log.error("record not written", sandbox=entry.id, error=str(error))

    async def _begin(self, entry: Entry, reason: str, breach: LimitBreach | None) -> None:
        if entry.watch is not None:
            entry.watch.cancel()
        if breach is not None:
            await self.breached(entry, breach)
        if entry.handle is not None:
            try:
                entry.saw(await self._parts.runtime.stats(entry.handle))
            except OSError as error:
                log.debug("no last figures", sandbox=entry.id, error=str(error))
        llm = self._parts.gateway.usage(entry.id) or entry.record.llm
        entry.record = entry.record.but(step="ending", death=reason, llm=llm)
        await self.save(entry)


def _obituary(entry: Entry) -> dict[str, object]:
    figures = entry.record.figures
    return {
        "reason": entry.record.death,
        "cpu_seconds": figures.cpu_seconds,
        "memory_peak_bytes": figures.memory_peak_bytes,
    }
