"""Loading a snapshot into a kernel: one that was begun ahead, where one of its kind waits, else one of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from hutch.errors import SnapshotCorrupt, SnapshotIncompatible, ThawFailed
from hutch.model import DenyAll, LlmGrant
from hutch.network.base import Slot
from hutch.node.booting import Stopwatch
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.guest import hostname
from hutch.node.kernels import Begun, Kernels
from hutch.node.parts import Parts
from hutch.node.waiting import check_doomed
from hutch.runtime.base import Handle, SandboxSpec

log = structlog.get_logger("hutch.node")


class Loader:
    """On an error it cleans up nothing but a kernel that was not fit: its caller does."""

    def __init__(self, parts: Parts, kernels: Kernels, ender: Ender) -> None:
        self._parts = parts
        self._kernels = kernels
        self._ender = ender

    async def quickly(
        self, entry: Entry, directory: Path, grant: LlmGrant | None, watch: Stopwatch, cpus: float
    ) -> Handle:
        """Thaw the snapshot in `directory` for somebody who waits."""
        self._kernels.wanted(entry.record)
        begun = self._kernels.take(entry.record)
        if begun is not None and (handle := await self._into(begun, entry, directory, grant, watch, cpus)):
            return handle
        return await self.anew(entry, directory, grant, watch, cpus)

    async def anew(
        self, entry: Entry, directory: Path | None, grant: LlmGrant | None, watch: Stopwatch, cpus: float
    ) -> Handle:
        """Thaw the snapshot in `directory`, or boot the image without one, in a slot and a kernel of its own."""
        parts = self._parts
        slot = await parts.slots.acquire(entry.id, entry.record.network)
        entry.record = entry.record.but(slot=slot.index, address=slot.guest_address)
        await parts.records.save(entry.record)
        await self._connect(entry, grant)
        watch.lap("slot")
        check_doomed(entry)
        runtime, spec = parts.runtime, await self.spec(entry, slot, cpus)
        entry.handle = await (runtime.thaw(spec, directory) if directory is not None else runtime.boot(spec))
        return entry.handle

    async def boot(self, entry: Entry, cpus: float) -> Handle:
        """In the slot that it has already: its thaw was refused before anything was done."""
        assert entry.record.slot is not None
        spec = await self.spec(entry, self._parts.slots.slot(entry.record.slot), cpus)
        entry.handle = await self._parts.runtime.boot(spec)
        return entry.handle

    async def spec(self, entry: Entry, slot: Slot, cpus: float) -> SandboxSpec:
        """`cpus`: for the loading; its own limit is put into force when that is done."""
        runtime_id = entry.record.runtime_id
        directory = self._parts.records.runtime_directory(runtime_id)
        await asyncio.to_thread(directory.mkdir, mode=0o700, exist_ok=True)
        return SandboxSpec(
            id=runtime_id,
            image=await self._image(entry.record.image),
            resources=entry.record.resources.model_copy(update={"cpus": cpus}),
            slot=slot,
            hostname=hostname(entry.id),
            directory=directory,
        )

    async def _into(
        self, begun: Begun, entry: Entry, directory: Path, grant: LlmGrant | None, watch: Stopwatch, cpus: float
    ) -> Handle | None:
        """Its kernel was begun ahead; None when that was not fit, and is gone."""
        parts, before = self._parts, begun.entry.record
        assert before.slot is not None
        # The record first: should we be killed from here on, the kernel is this sandbox's, and goes with it.
        entry.record = entry.record.but(member=before.id, slot=before.slot, address=before.address)
        await parts.records.save(entry.record)
        slot = parts.slots.slot(before.slot)
        if not isinstance(entry.record.network, DenyAll):
            await parts.slots.set_policy(slot, entry.record.network)
        await self._connect(entry, grant)
        watch.lap("slot")
        check_doomed(entry)
        try:
            entry.handle = await parts.runtime.thaw(await self.spec(entry, slot, cpus), directory, begun.handle)
        except (ThawFailed, SnapshotIncompatible, SnapshotCorrupt) as error:
            check_doomed(entry)
            log.warning("not thawed in a kernel that was begun ahead", sandbox=entry.id, reason=error.detail)
            await parts.fence.forget(before.address)
            await self._ender.end_kernel(entry)
            return None
        entry.record = entry.record.but(cpu_before=entry.record.cpu_before - begun.cpu_seconds)
        return entry.handle

    async def _connect(self, entry: Entry, grant: LlmGrant | None) -> None:
        """Let its address call models and reach names, as far as it may."""
        self._parts.gateway.grant(entry.id, entry.record.address, grant)
        await self._parts.fence.allow(entry.id, entry.record.address, entry.record.network)

    async def _image(self, hash: str) -> Path:
        """The node's own; where that is missing, the cache's. Raises `ThawFailed`."""
        parts = self._parts
        try:
            return await parts.pins.pin(parts.images.path(hash), hash)
        except FileNotFoundError as error:
            raise ThawFailed(f"the image {hash} that the snapshot stands on is gone") from error
