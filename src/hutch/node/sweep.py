"""What a new daemon does with what it finds: adopt what runs, finish what was half-done, sweep what nobody owns."""

from __future__ import annotations

import asyncio

import structlog

from hutch.egress.llm.organisation import today
from hutch.errors import HutchError, InternalError
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.process import boot_id
from hutch.node.records import MAX_BREACHES
from hutch.node.rescue import Rescue
from hutch.node.sandboxes import Sandboxes
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_AT_ONCE = 16

INTERRUPTED = "boot was interrupted"


class Takeover:
    """Runs once, before the node answers anybody."""

    def __init__(self, parts: Parts, sandboxes: Sandboxes) -> None:
        self._parts = parts
        self._sandboxes = sandboxes
        self._ender: Ender = sandboxes.ender
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._rescue = Rescue(parts, sandboxes.states, sandboxes.watch)

    async def run(self) -> None:
        """Afterwards every sandbox that the node knows is running, paused or dead, and nothing else of it exists; of
        the warm pool only what was claimed."""
        entries, torn = await self._load()
        await self._restore_usage()
        await self._restore_budgets()
        found = await asyncio.gather(*(self._look(entry) for entry in entries))
        adopted = [(entry, handle) for entry, handle in zip(entries, found, strict=True) if handle is not None]
        # Kernels go before their slots: the pool's start removes every namespace that nobody claims.
        await self._sweep_runtime({handle.id for _, handle in adopted})
        # The pool's start leads model calls to our gateway, which by then has to know whose they are: an agent that is
        # told "you may not" gives up, one that meets a closed port tries again.
        await asyncio.gather(*(self._grant(entry) for entry, _ in adopted))
        claimed = {entry.id: entry.record.slot for entry, _ in adopted if entry.record.slot is not None}
        policies = {entry.id: entry.record.network for entry, _ in adopted}
        await self._parts.slots.start(claimed, policies)
        await asyncio.gather(*(self._adopt(entry, handle) for entry, handle in adopted))
        lost = [entry for entry, handle in zip(entries, found, strict=True) if handle is None]
        await asyncio.gather(*(self._rest_or_finish(entry) for entry in lost))
        await self._sweep_files(torn)
        paused, ended = (sum(entry.record.step == step for entry in lost) for step in ("paused", "dead"))
        log.info("took over", adopted=len(adopted), paused=paused, ended=ended, torn=len(torn))

    async def _load(self) -> tuple[list[Entry], list[str]]:
        records, torn = await self._parts.records.load()
        entries = [Entry(record) for record in records]
        for entry in entries:
            self._parts.registry.add(entry)
            if entry.record.step != "dead":
                breaches = await self._parts.journal.breaches(entry.id)
                entry.record = entry.record.but(breaches=breaches[-MAX_BREACHES:])
        return entries, torn

    async def _restore_usage(self) -> None:
        """LLM counts go on where the last daemon wrote them down."""
        for id, usage in (await self._parts.journal.llm_totals()).items():
            entry = self._parts.registry.find(id)
            if entry is None:
                await self._parts.journal.forget(id)
            elif entry.record.step != "dead":
                self._parts.gateway.restore(id, usage)

    async def _restore_budgets(self) -> None:
        """What organisations have used this month, and may."""
        for org, day, usage in await self._parts.journal.llm_days(today()[:7]):
            self._parts.gateway.restore_day(org, day, usage)
        await self._parts.budgets.load()

    async def _look(self, entry: Entry) -> Handle | None:
        """The handle of a sandbox that runs and was running when the last daemon went, or was to be frozen and has not
        been."""
        if entry.record.step not in ("running", "pausing") or entry.record.machine_boot != boot_id():
            return None
        if entry.record.step == "pausing" and await self._rescue.is_frozen(entry):
            return None
        async with self._gate:
            runtime_id = entry.record.runtime_id
            directory = self._parts.records.runtime_directory(runtime_id)
            return await self._parts.runtime.adopt(runtime_id, directory)

    async def _sweep_runtime(self, adopted: set[str]) -> None:
        async def kill(id: str) -> None:
            async with self._gate:
                log.info("sweeping", sandbox=id)
                await self._parts.runtime.kill(id, self._parts.records.runtime_directory(id))

        ids = [id for id in await self._parts.runtime.leftovers() if id not in adopted]
        for id, result in zip(ids, await asyncio.gather(*map(kill, ids), return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                log.error("sweeping failed", sandbox=id, exc_info=result)

    async def _grant(self, entry: Entry) -> None:
        grant = await self._parts.records.load_grant(entry.id)
        self._parts.gateway.grant(entry.id, entry.record.address, grant)
        await self._parts.secrets.restore(entry.id)

    async def _adopt(self, entry: Entry, handle: Handle) -> None:
        """Put in force again what the record says: a step may have been written and not taken. A sandbox whose network
        policy cannot be put in force does not go on."""
        parts, record = self._parts, entry.record
        try:
            slot = parts.slots.slot(record.slot if record.slot is not None else -1)
            if slot.guest_address != record.address:
                raise InternalError(f"its address was {record.address}, its slot has {slot.guest_address}")
            await parts.slots.set_policy(slot, record.network)
            await parts.fence.allow(entry.id, record.address, record.network, wait=False)
            await self._rescue.go_on(entry, handle)
        except (HutchError, OSError, ValueError) as error:
            log.error("cannot adopt", sandbox=entry.id, error=str(error))
            entry.handle = handle
            await self._end(entry, f"it could not be taken over: {error}")
        else:
            if parts.runtime.trace != "off":
                parts.tracing.resumed(entry)
            self._sandboxes.take(entry, handle)

    async def _rest_or_finish(self, entry: Entry) -> None:
        if not await self._rescue.rest(entry):
            await self._finish(entry)

    async def _finish(self, entry: Entry) -> None:
        """Bring a sandbox that does not run (any more) to its end, with the reason that is true."""
        if entry.record.step == "dead":
            return
        reason = "its kernel ended while the node was down"
        if entry.record.step in ("paused", "resuming") or self._rescue.was_lost(entry):
            reason = "a power cut took its snapshot" if self._rescue.was_lost(entry) else "its snapshot is not there"
        elif entry.record.step == "booting":
            reason = INTERRUPTED
        elif entry.record.machine_boot != boot_id():
            reason = "the machine was restarted"
        entry.record = entry.record.but(slot=None)  # the pool's start has removed it
        await self._end(entry, reason)

    async def _end(self, entry: Entry, reason: str) -> None:
        async with self._gate:
            try:
                await self._ender.end(entry, reason)
            except Exception:
                log.exception("finishing failed; will be tried again", sandbox=entry.id)

    async def _sweep_files(self, torn: list[str]) -> None:
        known = {entry.id for entry in self._parts.registry}
        claimed = {entry.record.member for entry in self._parts.registry}
        for name in set(torn) - claimed:
            await self._parts.records.remove(name)
        for id in await self._parts.records.grant_ids():
            if id not in known:
                await self._parts.records.save_grant(id, None)
                await self._parts.records.save_secrets(id, None)
