"""Thawing: from a snapshot to a sandbox whose guest knows who it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from pathlib import Path

import structlog

from hutch.errors import GuestUnavailable, InvalidRequest, SnapshotIncompatible, ThawFailed
from hutch.model import BootRequest, LlmGrant, SnapshotKind, SnapshotRecord
from hutch.node.booting import Stopwatch
from hutch.node.entry import Entry
from hutch.node.filling import Filler
from hutch.node.guest_processes import GuestProcesses
from hutch.node.loading import Loader
from hutch.node.notes import ThawNote
from hutch.node.parts import Parts
from hutch.node.process import boot_id
from hutch.node.tokens import new_token
from hutch.node.waiting import unless_doomed
from hutch.runtime.base import Handle

log = structlog.get_logger("hutch.node")

_READY_SECONDS = 30.0
_NOTHING = ["/bin/true"]


class Thawer:
    """Takes an entry from a snapshot to `running`. On an error it cleans up nothing: its caller does.

    `cpu`: held by whoever boots or thaws; shared with `Booter`.
    """

    def __init__(self, parts: Parts, loader: Loader, cpu: asyncio.Semaphore) -> None:
        self._parts = parts
        self._loader = loader
        self._cpu = cpu
        self._disks = Filler(parts)

    async def resume(
        self, entry: Entry, snapshot: str, *, from_disk: bool = False, rolled_back: str | None = None
    ) -> Handle:
        """The same sandbox again: its environment, boot id and grant are kept, its address and token are new. The
        record says `running` when this returns. `from_disk`: booted from the snapshot's disk, if it has one, where its
        memory does not fit this node; with another boot id then. `rolled_back`: goes into that record and none before,
        so that a rollback that is asked for again is done again unless it has come to its end."""
        watch = Stopwatch()
        parts, record = self._parts, entry.record
        grant = await parts.records.load_grant(entry.id)
        await parts.secrets.restore(entry.id)
        parts.gateway.restore(entry.id, record.llm)
        handle, note, lost = await self._thaw(entry, snapshot, grant, None, None, watch, from_disk=from_disk)
        running = entry.record.but(
            step="running",
            boot_id=note.boot_id,
            machine_boot=boot_id(),
            snapshot=None,
            hibernated=False,
            fallback=None,
            parent=snapshot,
            rolled_back=rolled_back,
            since=time.time(),
            resumed_ms=watch.total,
            resumed_memory=lost is None,
        )
        await parts.records.save(running)
        entry.record = running
        log.info("sandbox resumed", sandbox=entry.id, snapshot=snapshot, ms=watch.total, **watch.steps)
        return handle

    async def fork(self, entry: Entry, request: BootRequest, watch: Stopwatch) -> Handle:
        """A new sandbox that goes on from another's snapshot. The record says `running` when this returns. Raises
        `SnapshotNotFound`, and as `Runtime.thaw`."""
        assert request.from_snapshot is not None
        source = await self._parts.snapshots.get(request.from_snapshot)
        own = source.resources or request.resources
        entry.record = entry.record.but(
            template=source.template or request.template,
            resources=request.resources.model_copy(update={"disk_mib": own.disk_mib, "pids": own.pids}),
            image=source.runtime.image or "",
            parent=source.id,
        )
        return await self.begin(entry, source.id, request, watch)

    async def begin(self, entry: Entry, snapshot: str, request: BootRequest, watch: Stopwatch) -> Handle:
        """A new sandbox whose record says already what it is made of. As `fork`."""
        parts = self._parts
        entry.record = entry.record.but(start="thaw")
        await parts.records.save(entry.record)
        if request.llm is not None:
            await parts.records.save_grant(entry.id, request.llm)
        if request.secrets is not None:
            await parts.secrets.give(entry.id, request.secrets)
        fresh = entry.record.boot_id
        handle, note, lost = await self._thaw(
            entry, snapshot, request.llm, request.env, fresh, watch, from_disk=request.fallback
        )
        running = entry.record.but(step="running", user=note.user, workdir=note.workdir, boot_ms=watch.total)
        if lost is not None:
            running = running.but(start="boot", start_reason=lost)
        await parts.records.save(running)
        entry.record = running
        log.info("sandbox thawed", sandbox=entry.id, snapshot=snapshot, ms=watch.total, **watch.steps)
        return handle

    async def ahead(self, entry: Entry, snapshot: str, cpus: float) -> tuple[Handle, str]:
        """A sandbox that is nobody's yet, thawed with so many cores at most; and the token for its introduction. It
        keeps nobody waiting who needs one now."""
        parts = self._parts
        async with parts.snapshots.opened(snapshot) as (directory, note):
            handle = await self._loader.anew(entry, directory, None, Stopwatch(), cpus)
            await unless_doomed(entry, self._rehearse(entry, note.guest_token), handle, ThawFailed)
        return handle, note.guest_token

    async def aside(self, entry: Entry, snapshot: str) -> None:
        """A copy that is nobody's, of which only the guest is asked something. Raises as `resume`."""
        parts = self._parts
        async with parts.snapshots.opened(snapshot) as (directory, note):
            await self._cpu.acquire()
            try:
                handle = await self._loader.anew(entry, directory, None, Stopwatch(), 1.0)
            finally:
                self._cpu.release()
            frozen = [token for token in (note.guest_token, note.next_token) if token]
            await self.introduce(entry, handle, frozen, {}, entry.record.boot_id)

    async def bare(self, entry: Entry) -> None:
        """The image of `entry`, booted, that is nobody's. Raises as `resume`."""
        async with self._cpu:
            handle = await self._loader.anew(entry, None, None, Stopwatch(), 1.0)
        await self._disks.prepare(entry, handle, {}, entry.record.boot_id)

    async def _rehearse(self, entry: Entry, token: str) -> None:
        """Wait until it answers, and have it do once what comes first when it is claimed. A kernel that has just been
        thawed maps each page when it is touched: whoever touches it first waits."""
        guests, record = self._parts.guests, entry.record
        try:
            await guests.ready(record.address, _READY_SECONDS)
            await guests.thaw(
                record.address,
                None,
                frozen_tokens=[token],
                token=token,
                boot_id=record.boot_id,
                env={},
                resources=record.resources,
                within=_READY_SECONDS,
            )
            with contextlib.suppress(GuestUnavailable):  # there may be no such program in the image
                await GuestProcesses(guests, record.address, token).run(_NOTHING)
        except GuestUnavailable as error:
            raise ThawFailed(f"{entry.id} was thawed but its guest does not answer: {error.detail}") from error

    async def introduce(
        self,
        entry: Entry,
        handle: Handle,
        frozen_tokens: list[str],
        env: dict[str, str] | None,
        boot: str,
        within: float = _READY_SECONDS,
    ) -> None:
        """Tell the guest who it is, and give it a token that nobody has who knows the snapshot. Raises `ThawFailed`,
        also when it does not answer within so many seconds; `InvalidRequest`, `SandboxNotRunning`."""
        token = new_token()
        record = entry.record
        telling = self._parts.guests.thaw(
            record.address,
            entry.id,
            frozen_tokens=frozen_tokens,
            token=token,
            boot_id=boot,
            env=env,
            resources=record.resources,
            within=within,
            secrets=self._parts.secrets.introduction(entry.id),
        )
        try:
            await unless_doomed(entry, telling, handle, ThawFailed)
        except GuestUnavailable as error:
            if error.extra.get("status") == 400 and env:
                raise InvalidRequest(f"the guest refuses the environment: {error.detail}", field="env") from error
            raise ThawFailed(f"{entry.id} was thawed but its guest does not answer: {error.detail}") from error
        entry.record = record.but(guest_token=token, next_token="")

    async def _thaw(
        self,
        entry: Entry,
        snapshot: str,
        grant: LlmGrant | None,
        env: dict[str, str] | None,
        fresh: str | None,
        watch: Stopwatch,
        from_disk: bool = False,
    ) -> tuple[Handle, ThawNote, str | None]:
        """Also why its memory is not the snapshot's, where it was booted. `fresh`: the boot id of a fork."""
        parts = self._parts
        record = await parts.snapshots.get(snapshot)
        async with contextlib.AsyncExitStack() as held:
            with parts.snapshots.urgent():
                directory, note = await held.enter_async_context(parts.snapshots.opened(snapshot))
                watch.lap("files")
                handle, lost = await self._loaded(entry, record, directory, grant, watch, from_disk)
            if lost is None:
                # Loading was its kernel's work; what its owner has left in it goes on now.
                await parts.runtime.limit_cpus(handle, entry.record.resources.cpus)
                frozen = [token for token in (note.guest_token, note.next_token) if token]
                await self.introduce(entry, handle, frozen, env, fresh or note.boot_id)
            else:
                note = note.model_copy(update={"boot_id": fresh or str(uuid.uuid4())})
                await self._disks.fill(entry, handle, directory, env, note.boot_id)
            watch.lap("guest")
        return handle, note, lost

    async def _loaded(
        self,
        entry: Entry,
        record: SnapshotRecord,
        directory: Path,
        grant: LlmGrant | None,
        watch: Stopwatch,
        from_disk: bool,
    ) -> tuple[Handle, str | None]:
        """With all cores; also why its memory is not the snapshot's, where it was booted."""
        lost = None if record.kind is SnapshotKind.FULL else f"{record.id} has no memory, only a disk"
        cpus = float(os.cpu_count() or 1)
        await unless_doomed(entry, self._cpu.acquire())
        try:
            watch.lap("queue")
            try:
                if lost is None:
                    handle = await self._loader.quickly(entry, directory, grant, watch, cpus)
                else:
                    handle = await self._loader.anew(entry, None, grant, watch, cpus)
            except SnapshotIncompatible as error:
                lost = _without_memory(record, from_disk, error)
                handle = await self._loader.boot(entry, cpus)
            watch.lap("thaw" if lost is None else "boot")
            return handle, lost
        finally:
            self._cpu.release()  # a guest that has been thawed may be hostile: it must not keep others waiting


def _without_memory(record: SnapshotRecord, from_disk: bool, error: SnapshotIncompatible) -> str:
    """Why its disk is used, if that is there and may be; else raise the error, with the way out."""
    if record.disk and from_disk:
        log.warning("memory does not fit, its disk is used", snapshot=record.id, reason=error.detail)
        return f"the disk of {record.id} was used: {error.detail}"
    if record.disk:
        hint = "It has a copy of its disk: with `fallback: disk` it is booted anew from that, without its processes."
        raise SnapshotIncompatible(error.detail, hint=hint, **error.extra) from error
    raise SnapshotIncompatible(
        f"{error.detail}; {record.id} has no copy of its disk to fall back to",
        hint="It can be thawed only where it fits. Pauses and snapshots with `fallback: disk` keep files for anywhere.",
        **error.extra,
    ) from error
