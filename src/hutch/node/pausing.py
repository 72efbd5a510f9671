"""Freezing a running sandbox: to pause it, and for a snapshot while it goes on (`hutch.node.taking`).

All of this is called with the sandbox's lock held.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from hutch.errors import FreezeFailed, HutchError
from hutch.model import SnapshotKind, SnapshotReason, SnapshotRecord, SnapshotRequest
from hutch.node.booting import Stopwatch
from hutch.node.disk import archive
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.packing import Packer
from hutch.node.parts import Parts
from hutch.runtime.base import Frozen, Handle

log = structlog.get_logger("hutch.node")

_APART = ".apart"


class Pauser:
    """`watch` begins to watch an entry again, whatever it is now."""

    def __init__(self, parts: Parts, ender: Ender, watch: Callable[[Entry], None]) -> None:
        self._parts = parts
        self._ender = ender
        self._watch = watch
        self._packer = Packer(parts)

    async def pause(self, entry: Entry, request: SnapshotRequest) -> None:
        """From running to paused. Raises `AlreadyExists`, `FreezeFailed`, `DiskFull`: then it runs on, unless
        `settle` has still to finish the pause."""
        parts, watch = self._parts, Stopwatch()
        with parts.snapshots.claim(request.snapshot):
            await parts.snapshots.check_free(request.snapshot)
            handle, stopped = _running(entry), 0.0
            try:
                entry.record = entry.record.but(step="pausing", taking=request)
                await parts.records.save(entry.record)
                stopped = (await self.freeze(entry, handle, request, keep_running=False)).stopped_ms
            except (Exception, asyncio.CancelledError) as error:
                if not await self.is_whole(entry):
                    await self._go_on(entry, handle)
                    raise freeze_error(entry, error) from error
                entry.handle = None
                if isinstance(error, asyncio.CancelledError):
                    raise
                log.warning("frozen, but not ended at once", sandbox=entry.id, error=str(error))
            watch.lap("freeze")
            entry.handle = None
            await self.settle(entry, stopped, watch)

    async def finish(self, entry: Entry) -> None:
        """A pause that was left in its middle: to its end if its snapshot is whole, else back. Raises as `settle`."""
        handle = entry.handle
        if handle is not None and not await self.is_whole(entry):
            await self._go_on(entry, handle)
            return
        entry.handle = None
        await self.settle(entry)

    async def settle(self, entry: Entry, stopped_ms: float = 0.0, watch: Stopwatch | None = None) -> None:
        """Finish a pause of which the snapshot is whole; may be repeated. It is paused when the snapshot survives a
        power cut. Raises `DiskFull`, `OSError`: to be tried again."""
        parts, request = self._parts, entry.record.taking
        assert request is not None
        watch = watch or Stopwatch()
        _unwatch(entry)
        # Nothing may run beside its own snapshot: what it does from there on nobody would remember.
        with parts.snapshots.urgent():
            # The host takes the memory back while the disk takes the snapshot.
            off = asyncio.create_task(self._ender.take_off(entry))
            try:
                snapshot = await self._keep(entry, request, stopped_ms)
            finally:
                await asyncio.wait({off})
            off.result()
        watch.lap("kept")
        entry.record = entry.record.but(since=snapshot.created_at.timestamp())  # long ago, if we were killed since
        data = {"snapshot": snapshot.id, "kind": snapshot.kind, "ms": watch.total}
        await parts.journal.insist(entry.id, "sandbox_paused", data)
        await self.rest(entry, snapshot.id, parent=snapshot.id)
        watch.lap("record")
        log.info(
            "sandbox paused",
            sandbox=entry.id,
            snapshot=snapshot.id,
            ms=watch.total,
            stopped_ms=stopped_ms,
            **watch.steps,
        )

    async def _keep(self, entry: Entry, request: SnapshotRequest, stopped_ms: float) -> SnapshotRecord:
        """The snapshot, in the store. Raises `DiskFull`, `OSError`."""
        snapshots = self._parts.snapshots
        snapshot = await snapshots.find(request.snapshot)
        if snapshot is None:
            frozen = self._parts.records.frozen_directory(entry.id, request.snapshot)
            await asyncio.to_thread(join, frozen)
            snapshot = await snapshots.admit(entry.record, frozen, request, stopped_ms)
        if request.reason is not SnapshotReason.SAFETY:  # which a rollback leaves at once
            await snapshots.wait_durable(snapshot.id)
        return snapshot

    async def rest(self, entry: Entry, snapshot: str, parent: str | None) -> None:
        """It is paused and nothing of it is on the host."""
        parts = self._parts
        found = await parts.snapshots.find(snapshot)
        size = found.logical_bytes if found is not None else 0
        image = (found.runtime.image if found is not None else None) or entry.record.image
        figures = entry.record.figures.model_copy(update={"memory_bytes": 0, "disk_bytes": size})
        record = entry.record.but(
            step="paused",
            image=image,
            taking=None,
            snapshot=snapshot,
            hibernated=found is not None and found.kind is SnapshotKind.DISK,
            fallback=None,
            still=False,  # a thaw lets it go on
            parent=parent,
            slot=None,
            address="",
            figures=figures,
            cpu_before=figures.cpu_seconds,
        )
        await parts.records.save(record)
        entry.record = record
        await parts.records.strip(entry.id)
        self._watch(entry)

    async def let_go_on(self, entry: Entry) -> None:
        """A running sandbox that may have been made to stand still."""
        await self._packer.go_on(entry)

    async def freeze(self, entry: Entry, handle: Handle, request: SnapshotRequest, *, keep_running: bool) -> Frozen:
        """What `request` asks for, in the sandbox's directory; the disk may lie apart still (`join`)."""
        parts = self._parts
        # Without the node's own connections to it the freeze has less to do, and whoever is at their end knows at once.
        # Those that its processes have opened are cut by the freeze itself, while nothing runs inside. A process that
        # saw the end of one just before would have taken it out of its epoll set, and gVisor keeps what was taken out
        # in the snapshot now and then: after the thaw the process is told of a descriptor that it has closed.
        with parts.dialer.holding(entry.id):
            into = parts.records.frozen_directory(entry.id, request.snapshot)
            if request.kind is SnapshotKind.DISK:
                frozen = await self._pack(entry, handle, into)
            elif request.disk:
                frozen = await self._freeze_with_disk(entry, handle, into, keep_running)
            else:
                frozen = await self._save(entry, handle, into, keep_running=keep_running)
            if not keep_running:
                parts.gateway.drop(entry.record.address)
                parts.identities.drop(entry.record.address)
                await parts.fence.drop(entry.record.address)
            return frozen

    async def _save(self, entry: Entry, handle: Handle, into: Path, *, keep_running: bool) -> Frozen:
        """By the sandbox's own kernel, which may have all cores for it: nothing else of the sandbox runs meanwhile."""
        parts = self._parts
        _unwatch(entry)  # one that stands still looks like one that is in need
        await self._see(entry, handle)
        with parts.snapshots.urgent():
            await parts.runtime.limit_cpus(handle, float(os.cpu_count() or 1))
            return await parts.runtime.freeze(handle, into, keep_running)

    async def _pack(self, entry: Entry, handle: Handle, into: Path) -> Frozen:
        """By its guest, which takes its time and may be hostile: within the sandbox's own limits, and watched. Raises
        as `Packer.pack`; `FreezeFailed` when it has to end."""
        packing = asyncio.ensure_future(self._packer.pack(entry, handle, into))
        try:
            ends: set[asyncio.Future[Any]] = {packing, *([entry.watch] if entry.watch is not None else [])}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not packing.done():
                raise FreezeFailed(f"{entry.id} has to end: its lifetime is over, or a limit was passed")
            frozen = packing.result()
        finally:
            packing.cancel()
            await asyncio.wait({packing})
        _unwatch(entry)
        await self._see(entry, handle)
        return frozen

    async def _see(self, entry: Entry, handle: Handle) -> None:
        with contextlib.suppress(OSError):
            entry.saw(await self._parts.runtime.stats(handle))

    async def _freeze_with_disk(self, entry: Entry, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        """The disk first: it stands still from then on, so that both are of the same moment. After a thaw it is told
        to go on; here the caller does that, unless it is frozen for good."""
        packed = await self._pack(entry, handle, into.with_name(into.name + _APART))
        frozen = await self._save(entry, handle, into, keep_running=keep_running)
        return replace(frozen, stopped_ms=packed.stopped_ms + frozen.stopped_ms)

    async def is_whole(self, entry: Entry) -> bool:
        """Whether the snapshot that was to be made is there: then the sandbox is paused, what may still run of it has
        to go, and `settle` finishes the pause."""
        taking = entry.record.taking
        if taking is None:
            return False
        frozen = self._parts.records.frozen_directory(entry.id, taking.snapshot)
        if await asyncio.to_thread(frozen.exists):
            return True
        found = await self._parts.snapshots.find(taking.snapshot)
        return found is not None and found.sandbox_id == entry.id

    async def _go_on(self, entry: Entry, handle: Handle) -> None:
        """After a freeze that came to nothing: it runs, or the watcher finds that it is dead."""
        await self.limit(entry, handle)
        await self._packer.go_on(entry)
        await self._parts.records.sweep_frozen(entry.id)
        entry.record = entry.record.but(step="running", taking=None)
        await self._ender.save(entry)
        self._watch(entry)

    async def limit(self, entry: Entry, handle: Handle) -> None:
        """Its own share of the cores again."""
        with contextlib.suppress(OSError):  # it may be dead
            await self._parts.runtime.limit_cpus(handle, entry.record.resources.cpus)


def _running(entry: Entry) -> Handle:
    assert entry.handle is not None
    return entry.handle


def _unwatch(entry: Entry) -> None:
    if entry.watch is not None:
        entry.watch.cancel()


def join(frozen: Path) -> None:
    """Put the disk that was saved apart beside the memory; what says that it is there comes last. May be repeated."""
    apart = frozen.with_name(frozen.name + _APART)
    if not archive.is_archive(apart):
        return
    for name in (archive.INDEX, archive.PAGES, archive.MANIFEST):
        if (apart / name).exists():
            (apart / name).rename(frozen / name)


def freeze_error(entry: Entry, error: BaseException) -> BaseException:
    """A full disk stays what it is (see `problems`)."""
    if isinstance(error, (HutchError, asyncio.CancelledError)) or getattr(error, "errno", None) is not None:
        return error
    return FreezeFailed(f"{entry.id} was not frozen: {error}")
