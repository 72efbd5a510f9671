"""A snapshot of a sandbox that stays what it is: running or paused.

All of this is called with the sandbox's lock held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import structlog

from hutch.errors import AlreadyExists, Conflict, FreezeFailed
from hutch.model import SnapshotKind, SnapshotRecord, SnapshotRequest
from hutch.node.booting import Stopwatch
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.parts import Parts
from hutch.node.pausing import Pauser, freeze_error, join
from hutch.node.records import SandboxRecord
from hutch.node.tokens import new_token, renew_token
from hutch.runtime.base import Frozen, Handle

log = structlog.get_logger("hutch.node")


class Taker:
    """`watch` begins to watch an entry again, whatever it is now."""

    def __init__(self, parts: Parts, ender: Ender, pauser: Pauser, watch: Callable[[Entry], None]) -> None:
        self._parts = parts
        self._ender = ender
        self._pauser = pauser
        self._watch = watch

    async def snapshot(self, entry: Entry, request: SnapshotRequest) -> SnapshotRecord:
        """The same id twice: the same one. Raises `AlreadyExists`, `FreezeFailed`, `DiskFull`, `LimitReached`, and for
        a paused one `SnapshotCorrupt`, and `Conflict` where it cannot have the disk that is asked for."""
        snapshots = self._parts.snapshots
        watch = Stopwatch()
        with snapshots.claim(request.snapshot), self._letting_go(entry, request):
            if (known := await snapshots.find(request.snapshot)) is not None:
                if known.sandbox_id == entry.id:
                    return known
                raise AlreadyExists(f"{request.snapshot} is another sandbox's snapshot")
            figures = entry.record.figures
            size = figures.memory_bytes + figures.disk_bytes
            async with snapshots.allowance.kept(entry.record.org, request.reason, size):
                taken = await self._begin(entry, request, watch)
            entry.record = _coming_from(entry.record, taken)
            if entry.running:
                await renew_token(self._parts, entry)  # which writes all of it down
            else:
                await self._ender.save(entry)
            watch.lap("record")
            log.info(
                "snapshot taken",
                sandbox=entry.id,
                snapshot=taken.id,
                ms=watch.total,
                stopped_ms=taken.stopped_ms,
                **watch.steps,
            )
            return taken

    async def note(self, entry: Entry) -> None:
        """What follows a snapshot, if there was one that was left in its middle. May be repeated."""
        taking = entry.record.taking
        if taking is None:
            return
        taken = await self._parts.snapshots.find(taking.snapshot)
        entry.record = entry.record.but(taking=None) if taken is None else _coming_from(entry.record, taken)
        await self._ender.save(entry)

    async def _begin(self, entry: Entry, request: SnapshotRequest, watch: Stopwatch) -> SnapshotRecord:
        """Written down before it is done: should we be killed in its middle, `note` does what follows."""
        entry.record = entry.record.but(taking=request)
        try:
            await self._parts.records.save(entry.record)
            watch.lap("begin")
            return await self._take(entry, request, watch)
        except BaseException:
            await self.note(entry)
            raise

    async def _take(self, entry: Entry, request: SnapshotRequest, watch: Stopwatch) -> SnapshotRecord:
        if entry.running:
            return await self._take_running(entry, request, watch)
        snapshots, source = self._parts.snapshots, entry.record.snapshot
        assert source is not None
        stands_on = await snapshots.get(source)
        if request.kind is SnapshotKind.DISK and stands_on.kind is not SnapshotKind.DISK:
            raise Conflict(
                f"{entry.id} is paused with its memory: only a running one can be asked for its disk alone",
                hint="Resume it first, or leave `mode` out.",
            )
        if request.disk and not stands_on.disk:
            raise Conflict(
                f"{entry.id} is paused on {source}, which has no copy of its disk",
                hint="Resume it first, or leave `fallback` out.",
            )
        copied = await snapshots.copy(source, entry.record, request)
        watch.lap("copy")
        return copied

    async def _take_running(self, entry: Entry, request: SnapshotRequest, watch: Stopwatch) -> SnapshotRecord:
        if request.held and not self._parts.gateway.keep_holding(entry.id):
            raise FreezeFailed(f"the calls of {entry.id} to its model provider are not held any more")
        assert entry.handle is not None
        try:
            frozen = await self._freeze(entry, entry.handle, request)
            watch.lap("freeze")
            await asyncio.to_thread(join, frozen.path)
            admitted = await self._parts.snapshots.admit(entry.record, frozen.path, request, frozen.stopped_ms)
            watch.lap("admit")
            return admitted
        finally:
            await self._parts.records.sweep_frozen(entry.id)  # nothing, unless that has failed

    async def _freeze(self, entry: Entry, handle: Handle, request: SnapshotRequest) -> Frozen:
        try:
            return await self._pauser.freeze(entry, handle, request, keep_running=True)
        except Exception as error:
            raise freeze_error(entry, error) from error
        finally:
            await self._pauser.limit(entry, handle)
            await self._pauser.let_go_on(entry)
            self._watch(entry)

    @contextlib.contextmanager
    def _letting_go(self, entry: Entry, request: SnapshotRequest) -> Iterator[None]:
        """Whatever comes of a snapshot for which the sandbox's calls to model providers are held, they go on after."""
        try:
            yield
        finally:
            if request.held:
                self._parts.gateway.free(entry.id)


def _coming_from(record: SandboxRecord, taken: SnapshotRecord) -> SandboxRecord:
    """It comes from there now. Where it runs, its token is in the snapshot's memory, and needs another."""
    token = (record.next_token or new_token()) if record.step == "running" else ""
    return record.but(taking=None, parent=taken.id, next_token=token)
