"""Bringing a paused sandbox back, and taking one back to an earlier snapshot.

All of this is called with the sandbox's lock held.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from hutch.errors import HutchError, SandboxNotRunning, SnapshotIncompatible, ThawFailed
from hutch.model import RollbackRequest, SnapshotReason, SnapshotRecord, SnapshotRequest
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.failure import as_hutch
from hutch.node.parts import Parts
from hutch.node.pausing import Pauser
from hutch.node.room import Need, Room
from hutch.node.taking import Taker
from hutch.node.thawing import Thawer

log = structlog.get_logger("hutch.node")


class Resumer:
    """`watch` begins to watch an entry again, whatever it is now."""

    def __init__(
        self,
        parts: Parts,
        ender: Ender,
        room: Room,
        pauser: Pauser,
        taker: Taker,
        thawer: Thawer,
        watch: Callable[[Entry], None],
    ) -> None:
        self._parts = parts
        self._ender = ender
        self._room = room
        self._pauser = pauser
        self._taker = taker
        self._thawer = thawer
        self._watch = watch

    async def resume(self, entry: Entry, *, from_disk: bool = False) -> None:
        """From paused to running. `from_disk`: where memory does not fit this node, its disk will do. Raises what
        `Node.resume` of `hutch.fleet` says; then it is paused as before."""
        snapshot = entry.record.snapshot
        assert entry.paused and snapshot is not None
        found = await self._parts.snapshots.get(snapshot)
        with self._room.kept(entry, Need.of(found, entry.record.resources)):
            await self._wake(entry, snapshot, fallback=snapshot, from_disk=from_disk)
        data = {"snapshot": snapshot, "memory": entry.record.resumed_memory, "ms": entry.record.resumed_ms}
        await self._parts.journal.insist(entry.id, "sandbox_resumed", data)

    async def rollback(self, entry: Entry, request: RollbackRequest) -> None:
        """A running or paused sandbox is `request.snapshot` again, and runs."""
        started = time.monotonic()
        if entry.record.rolled_back == request.safety:
            return
        target = await self._check_target(entry, request.snapshot)
        # One that ran stands on its safety snapshot, if this call goes on with what a killed daemon has begun.
        ran = entry.running or entry.record.snapshot == request.safety
        with self._room.kept(entry, Need.of(target, entry.record.resources)):
            await self._take_back(entry, request, ran)
        took = round((time.monotonic() - started) * 1000, 1)
        data = {"snapshot": request.snapshot, "safety": request.safety, "ms": took}
        await self._parts.journal.insist(entry.id, "sandbox_rolled_back", data)

    async def _take_back(self, entry: Entry, request: RollbackRequest, ran: bool) -> None:
        stands_on = await self._keep(entry, request)
        try:
            await self._wake(
                entry,
                request.snapshot,
                fallback=stands_on,
                rolled_back=request.safety,
                from_disk=request.fallback,
            )
        except SandboxNotRunning:  # deleted meanwhile
            raise
        except HutchError as error:
            if not ran:
                raise _failed(entry, request, error, "it is paused as before") from error
            await self._bring_back(entry, stands_on, request, error)
            raise _failed(entry, request, error, "it runs on as it was") from error

    async def give_up(self, entry: Entry) -> None:
        """A thaw came to nothing: paused again, on what it stood on. May be repeated."""
        record = entry.record
        stands_on = record.fallback or record.snapshot
        assert stands_on is not None
        await self._ender.take_off(entry)
        await self._pauser.rest(entry, stands_on, parent=record.parent)

    async def _check_target(self, entry: Entry, snapshot: str) -> SnapshotRecord:
        """Before anything is changed: raise what would certainly fail."""
        target = await self._parts.snapshots.get(snapshot)
        have, want = entry.record.resources, target.resources
        if want is not None and (have.disk_mib, have.pids) != (want.disk_mib, want.pids):
            raise SnapshotIncompatible(
                f"{snapshot} is of a sandbox with another disk size or process limit than {entry.id}",
                what="resources",
                snapshot=f"{want.disk_mib} MiB, {want.pids} processes",
                here=f"{have.disk_mib} MiB, {have.pids} processes",
            )
        return target

    async def _keep(self, entry: Entry, request: RollbackRequest) -> str:
        """The safety snapshot; what the sandbox, which is paused afterwards, stands on."""
        safety = SnapshotRequest(snapshot=request.safety, reason=SnapshotReason.SAFETY, created_by=request.created_by)
        if entry.running:
            await self._pauser.pause(entry, safety)
        elif entry.record.snapshot != request.safety:  # else a rollback that was broken off goes on
            await self._taker.snapshot(entry, safety)
        stands_on = entry.record.snapshot
        assert stands_on is not None
        return stands_on

    async def _wake(
        self,
        entry: Entry,
        snapshot: str,
        fallback: str,
        rolled_back: str | None = None,
        from_disk: bool = False,
    ) -> None:
        """Raises; then it is paused on `fallback`. `rolled_back`: the safety snapshot of a rollback."""
        before = entry.record
        try:
            target = await self._parts.snapshots.get(snapshot)
            image = target.runtime.image or before.image
            entry.record = entry.record.but(step="resuming", snapshot=snapshot, fallback=fallback, image=image)
            await self._parts.records.save(entry.record)
            if entry.watch is not None:
                entry.watch.cancel()
            entry.handle = await self._thawer.resume(
                entry, snapshot, from_disk=from_disk, rolled_back=rolled_back or before.rolled_back
            )
        except Exception as error:
            entry.record = entry.record.but(fallback=fallback, parent=before.parent)
            await self.give_up(entry)
            raise as_hutch(error, ThawFailed, entry.id, f"{entry.id} was not thawed") from error
        self._watch(entry)

    async def _bring_back(self, entry: Entry, safety: str, request: RollbackRequest, why: HutchError) -> None:
        """After a failed rollback of a running sandbox."""
        try:
            await self._wake(entry, safety, fallback=safety)
        except SandboxNotRunning:
            raise
        except HutchError as error:
            log.error("rollback failed twice", sandbox=entry.id, exc_info=error)
            raise _failed(entry, request, why, f"it is paused, as {error.detail}") from error


def _failed(entry: Entry, request: RollbackRequest, error: HutchError, state: str) -> ThawFailed:
    return ThawFailed(
        f"{entry.id} was not taken back to {request.snapshot}: {error.detail}; {state}",
        snapshot=request.snapshot,
        safety=request.safety,
        hint=error.hint,
    )
