"""The steps of a boot. Each is written down before it is taken, so that a killed daemon leaves nothing unknown."""

from __future__ import annotations

import asyncio
import os
import time

import structlog

from hutch.errors import BootFailed, GuestUnavailable, InvalidRequest
from hutch.images.lookup import BuiltImage
from hutch.model import BootRequest, Recipe
from hutch.network.base import Slot
from hutch.node.entry import Entry
from hutch.node.guest import hostname
from hutch.node.parts import Parts
from hutch.node.residents import Residents
from hutch.node.waiting import check_doomed, unless_doomed
from hutch.runtime.base import Handle, SandboxSpec

log = structlog.get_logger("hutch.node")

_READY_SECONDS = 30.0


class Stopwatch:
    """Milliseconds per step of a boot, for the log."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.steps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """The time since the last lap was this step's."""
        now = time.monotonic()
        self.steps[step] = round((now - self._last) * 1000, 1)
        self._last = now

    @property
    def total(self) -> float:
        return round((self._last - self._start) * 1000, 1)


class Booter:
    """Takes an entry from nothing to `running`. On an error it cleans up nothing: its caller does."""

    def __init__(self, parts: Parts, at_once: int) -> None:
        self._parts = parts
        # A boot or thaw is nearly all CPU: more of them at once than cores only makes each one late.
        self.cpu = asyncio.Semaphore(at_once)
        self._residents = Residents(parts.guests)

    async def boot(
        self, entry: Entry, image: BuiltImage, request: BootRequest, watch: Stopwatch, cpus: float | None = None
    ) -> Handle:
        """Boot it; the record says `running` when this returns. `cpus`: most cores that the boot may take."""
        parts = self._parts
        await parts.records.save(entry.record)
        await unless_doomed(entry, self.cpu.acquire())
        try:
            watch.lap("queue")
            slot = await self._slot(entry, request)
            watch.lap("slot")
            handle = await self._start(entry, image, slot, cpus or float(os.cpu_count() or 1))
            watch.lap("boot")
            await self._greet(entry, image.recipe, handle, request, watch)
        finally:
            self.cpu.release()
        if has_residents(image.recipe):
            await self._start_residents(entry, image.recipe, handle, request)
            watch.lap("residents")
        record = entry.record.but(step="running", boot_ms=watch.total)
        await parts.records.save(record)
        watch.lap("record")
        entry.record = record
        log.info("sandbox running", sandbox=entry.id, template=record.template, boot_ms=watch.total, **watch.steps)
        return handle

    async def _slot(self, entry: Entry, request: BootRequest) -> Slot:
        slot = await self._parts.slots.acquire(entry.id, request.network)
        entry.record = entry.record.but(slot=slot.index, address=slot.guest_address)
        await self._parts.records.save(entry.record)
        if request.llm is not None:
            await self._parts.records.save_grant(entry.id, request.llm)
        if request.secrets is not None:
            await self._parts.secrets.give(entry.id, request.secrets)
        self._parts.gateway.grant(entry.id, slot.guest_address, request.llm)
        await self._parts.fence.allow(entry.id, slot.guest_address, request.network)
        return slot

    async def _start(self, entry: Entry, image: BuiltImage, slot: Slot, cpus: float) -> Handle:
        check_doomed(entry)
        runtime_id = entry.record.runtime_id
        directory = self._parts.records.runtime_directory(runtime_id)
        await asyncio.to_thread(directory.mkdir, mode=0o700, exist_ok=True)
        spec = SandboxSpec(
            id=runtime_id,
            image=await self._parts.pins.pin(image.path, image.hash),
            # A boot costs half a second of CPU, and nothing of the guest's own runs in it: its limit comes after.
            resources=entry.record.resources.model_copy(update={"cpus": cpus}),
            slot=slot,
            hostname=hostname(entry.id),
            directory=directory,
        )
        return await self._parts.runtime.boot(spec)  # never cancelled in its middle: kill() comes after it

    async def _greet(
        self, entry: Entry, recipe: Recipe, handle: Handle, request: BootRequest, watch: Stopwatch
    ) -> None:
        """Resident processes are older than the sandbox: it is somebody's when they are ready."""
        guests, record = self._parts.guests, entry.record
        early = record.hidden or has_residents(recipe)
        try:
            who = (record.address, None if early else entry.id, record.guest_token, record.boot_id)
            env, secrets = ({}, None) if early else (request.env, self._parts.secrets.introduction(entry.id))
            prepare = guests.prepare(*who, env, record.resources, within=_READY_SECONDS, secrets=secrets)
            await unless_doomed(entry, prepare, handle)
            watch.lap("prepare")
            await self._parts.runtime.limit_cpus(handle, record.resources.cpus)
        except GuestUnavailable as error:
            raise _refused(error) from error

    async def _start_residents(self, entry: Entry, recipe: Recipe, handle: Handle, request: BootRequest) -> None:
        record = entry.record
        await unless_doomed(entry, self._residents.start(recipe, record.address, record.guest_token), handle)
        if record.hidden:
            return
        telling = self._parts.guests.thaw(
            record.address,
            entry.id,
            frozen_tokens=[record.guest_token],
            token=record.guest_token,
            boot_id=record.boot_id,
            env=request.env,
            resources=record.resources,
            within=_READY_SECONDS,
            secrets=self._parts.secrets.introduction(entry.id),
        )
        try:
            await unless_doomed(entry, telling, handle)
        except GuestUnavailable as error:
            raise _refused(error) from error


def has_residents(recipe: Recipe) -> bool:
    """Whether something of its own runs in its sandboxes, or has to be ready."""
    return bool(recipe.start) or recipe.ready is not None


def _refused(error: GuestUnavailable) -> BootFailed | InvalidRequest:
    if error.extra.get("status") == 400:
        return InvalidRequest(f"the guest refuses the environment: {error.detail}", field="env")
    return BootFailed(f"the sandbox booted but its guest does not take over: {error.detail}")
