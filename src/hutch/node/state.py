"""Changes of state that the API asks for: one at a time for a sandbox, and to their end when the caller is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hutch.errors import SandboxNotRunning
from hutch.model import (
    Held,
    HoldRequest,
    PauseRequest,
    ResumeRequest,
    RollbackRequest,
    SnapshotReason,
    SnapshotRecord,
    SnapshotRequest,
)
from hutch.node.ending import Ender
from hutch.node.entry import Entry
from hutch.node.kernels import Kernels
from hutch.node.parts import Parts
from hutch.node.pausing import Pauser
from hutch.node.resuming import Resumer
from hutch.node.room import Room
from hutch.node.taking import Taker
from hutch.node.thawing import Thawer

T = TypeVar("T")


class States:
    """Every call may be repeated."""

    def __init__(
        self,
        parts: Parts,
        ender: Ender,
        room: Room,
        thawer: Thawer,
        kernels: Kernels,
        watch: Callable[[Entry], None],
    ) -> None:
        self._parts = parts
        self._kernels = kernels
        self.pauser = Pauser(parts, ender, watch)
        self.taker = Taker(parts, ender, self.pauser, watch)
        self.resumer = Resumer(parts, ender, room, self.pauser, self.taker, thawer, watch)
        self._working: set[asyncio.Task[None]] = set()

    @property
    def working(self) -> set[asyncio.Task[None]]:
        """What is being done just now."""
        return set(self._working)

    async def pause(self, id: str, request: PauseRequest) -> Entry:
        """It is paused; on another snapshot when it was already."""
        wanted = SnapshotRequest(
            snapshot=request.snapshot,
            created_by=request.created_by,
            reason=SnapshotReason.PAUSE,
            kind=request.kind,
            disk=request.disk,
        )

        async def work(entry: Entry) -> Entry:
            if not entry.paused:
                await self.pauser.pause(entry, wanted)
                self._kernels.wanted(entry.record)
            return entry

        return await self._change(id, work)

    async def resume(self, id: str, request: ResumeRequest | None = None) -> Entry:
        """It runs."""
        fallback = request is not None and request.fallback

        async def work(entry: Entry) -> Entry:
            if not entry.running:
                await self.resumer.resume(entry, from_disk=fallback)
            return entry

        return await self._change(id, work)

    async def rollback(self, id: str, request: RollbackRequest) -> Entry:
        """It runs, as it was at the snapshot."""

        async def work(entry: Entry) -> Entry:
            await self.resumer.rollback(entry, request)
            return entry

        return await self._change(id, work)

    async def hold(self, id: str, request: HoldRequest) -> Held:
        """Hold its calls to model providers from a moment without one; whether there was one."""
        entry = self._parts.registry.get(id)
        if not entry.running:
            raise SandboxNotRunning(f"{id} is {entry.view().state}")
        held = await self._parts.gateway.hold(id, request.within, request.seconds)
        return Held(held=held, waiting=self._parts.gateway.waiting(id))

    def let_go(self, id: str) -> None:
        """Hold them no more."""
        self._parts.gateway.let_go(id)

    async def snapshot(self, id: str, request: SnapshotRequest) -> SnapshotRecord:
        """A snapshot of it; it stays what it is. What somebody asked for survives a power cut when this returns."""

        async def work(entry: Entry) -> SnapshotRecord:
            taken = await self.taker.snapshot(entry, request)
            self._kernels.wanted(entry.record)
            return taken

        taken = await self._change(id, work)
        if request.reason is SnapshotReason.MANUAL:
            await self._parts.snapshots.wait_durable(taken.id)
        return taken

    async def finish(self, entry: Entry) -> None:
        """What an earlier change had to leave undone. The lock is held."""
        if entry.record.step == "pausing":
            await self.pauser.finish(entry)
        elif entry.record.step == "resuming":
            await self.resumer.give_up(entry)
        elif entry.running or entry.paused:
            await self.taker.note(entry)
            await self.pauser.let_go_on(entry)

    async def _change(self, id: str, work: Callable[[Entry], Awaitable[T]]) -> T:
        """Do `work` on a running or paused sandbox. Raises `SandboxNotFound`, `SandboxNotRunning`."""
        entry = self._parts.registry.get(id)
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._do(entry, work, done))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(done)

    async def _do(self, entry: Entry, work: Callable[[Entry], Awaitable[T]], done: asyncio.Future[T]) -> None:
        try:
            if entry.boot is not None:
                await asyncio.wait({entry.boot})
            async with entry.lock:
                await self.finish(entry)
                if entry.doomed.is_set() or not (entry.running or entry.paused):
                    raise SandboxNotRunning(f"{entry.id} is {entry.view().state}")
                result = await work(entry)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as error:
            done.set_exception(error)
            done.exception()  # whoever asked may be gone
        else:
            done.set_result(result)
