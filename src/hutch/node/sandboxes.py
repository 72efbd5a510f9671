"""The manager: every state change of a sandbox goes through here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime

import structlog

from hutch.errors import BootFailed, GuestUnavailable, InvalidRequest, SandboxNotRunning
from hutch.model import BootRequest, Diff, DiffRequest, LimitBreach, LlmGrant, NodeSandbox, is_id
from hutch.model.grant import NodePolicy, SecretGrant
from hutch.node.beginning import Beginner
from hutch.node.booting import Booter, Stopwatch
from hutch.node.claiming import Claimer
from hutch.node.differ import Differ
from hutch.node.ending import TOMBSTONE_SECONDS, Ender
from hutch.node.entry import Entry
from hutch.node.failure import as_hutch
from hutch.node.keeping import Keeper
from hutch.node.kernels import Kernels
from hutch.node.layers import Layers
from hutch.node.limits import Watcher
from hutch.node.loading import Loader
from hutch.node.making import Maker
from hutch.node.parts import Parts
from hutch.node.peeking import Peeker
from hutch.node.process import boot_id
from hutch.node.records import SandboxRecord
from hutch.node.room import Room
from hutch.node.starting import Starter
from hutch.node.state import States
from hutch.node.templates import Templates
from hutch.node.thawing import Thawer
from hutch.node.tokens import new_token, renew_token
from hutch.node.warm import WarmPool
from hutch.runtime.base import Handle
from hutch.snapshots import Retention

log = structlog.get_logger("hutch.node")

_JANITOR_SECONDS = 60.0
_TOLD_WITHIN = 1.0
"""Seconds until the journal has that a sandbox runs."""


class Sandboxes:
    """All calls are idempotent by id and may come at the same time."""

    def __init__(self, parts: Parts, boots_at_once: int) -> None:
        self._parts = parts
        self._registry = parts.registry
        self.ender = Ender(parts)
        self._room = Room(parts)
        booter = Booter(parts, boots_at_once)
        self.kernels = Kernels(parts, self.ender, self._room)
        loader = Loader(parts, self.kernels, self.ender)
        thawer = Thawer(parts, loader, booter.cpu)
        self.templates = Templates(parts, booter, self.ender, self._room)
        self.pool = WarmPool(parts, self.ender, self._room)
        self._keeper = Keeper(parts, self.pool, thawer, self.templates, self._busy)
        self._beginner = Beginner(parts, self.kernels, loader, self.pool, self._busy)
        claimer = Claimer(parts, self.pool, thawer, self.ender)
        self.layers = Layers(parts)
        self.maker = Maker(parts, self.layers)
        self._starter = Starter(parts, booter, thawer, self.ender, self.templates, claimer, self.layers, self._room)
        self.states = States(parts, self.ender, self._room, thawer, self.kernels, self.watch)
        self._differ = Differ(parts, Peeker(parts, thawer, self.ender, self._room))
        self._watcher = Watcher(parts.runtime, parts.guests, self.ender.breached, self._ended)
        self._machine_boot = boot_id()
        self._retention = Retention.of(parts.settings)
        self._background: set[asyncio.Task[None]] = set()

    async def boot(self, id: str, request: BootRequest) -> tuple[NodeSandbox, bool]:
        """The running sandbox, and whether this call began its boot. A boot goes on when its caller is gone."""
        watch = Stopwatch()
        if not is_id(id, "sbx"):
            raise InvalidRequest("not a sandbox id", field="id", value=id[:64])
        entry = self._registry.find(id)
        created = entry is None
        if entry is None:
            entry = self._new(id, request)
            entry.boot = asyncio.create_task(self._boot(entry, request, watch))
            entry.boot.add_done_callback(lambda task: task.cancelled() or task.exception())  # its caller may be gone
        if entry.boot is not None:
            await asyncio.shield(entry.boot)
        if entry.record.step in ("ending", "dead"):
            raise SandboxNotRunning(f"{id} is dead: {entry.record.death or 'deleted'}")
        return self.view(entry), created

    async def destroy(self, id: str) -> NodeSandbox:
        """End it in any state and forget it; its final figures. Raises `SandboxNotFound`."""
        if is_id(id, "sbx"):
            self._registry.mark_deleted(id)
        entry = self._registry.get(id)
        entry.doomed.set()
        if entry.boot is not None:
            await asyncio.wait({entry.boot})
        await self.ender.end(entry, "deleted")
        await self.ender.forget(entry)
        return entry.view()

    async def get(self, id: str) -> NodeSandbox:
        """One sandbox, with fresh figures. Raises `SandboxNotFound`."""
        entry = self._registry.get(id)
        if entry.running and entry.handle is not None:
            with contextlib.suppress(OSError):  # it may be dying just now
                entry.saw(await self._parts.runtime.stats(entry.handle))
        return self.view(entry)

    async def diff(self, id: str, request: DiffRequest) -> Diff:
        """What differs between two points of it; it may be gone where both are snapshots. See `Differ.diff`."""
        return await self._differ.diff(self._registry.find(id), request)

    def list(self) -> list[NodeSandbox]:
        """All sandboxes; figures at most a moment old."""
        return [self.view(entry) for entry in self._registry]

    async def set_deadline(self, id: str, deadline: float) -> NodeSandbox:
        """When the node ends it by itself (unix time)."""
        entry = self._living(id)
        async with entry.lock:
            self._living(id)
            entry.record = entry.record.but(deadline=deadline)
            await self._parts.records.save(entry.record)
        return self.view(entry)

    async def set_network(self, id: str, policy: NodePolicy) -> NodeSandbox:
        """What it may reach, at once. What was in force stays if it cannot be set."""
        entry = self._living(id)
        async with entry.lock:
            before = self._living(id).record.network
            try:
                await self._apply_network(entry, policy)
            except Exception:
                await self._apply_network(entry, before)
                raise
        return self.view(entry)

    async def _apply_network(self, entry: Entry, policy: NodePolicy) -> None:
        """The record is first: a daemon that is killed in between sets, when it starts, what stands there."""
        entry.record = entry.record.but(network=policy)
        await self._parts.records.save(entry.record)
        if (slot := entry.record.slot) is not None:
            await self._parts.slots.set_policy(self._parts.slots.slot(slot), policy)
            await self._parts.fence.allow(entry.id, entry.record.address, policy)

    async def set_llm(self, id: str, grant: LlmGrant | None) -> NodeSandbox:
        """Give, replace or take back its permission to call a model provider."""
        entry = self._living(id)
        async with entry.lock:
            await self._parts.records.save_grant(id, grant)
            if self._living(id).running:
                self._parts.gateway.grant(id, entry.record.address, grant)
        return self.view(entry)

    async def set_secrets(self, id: str, grant: SecretGrant | None) -> NodeSandbox:
        """Give, replace or take back what it may use of secrets; of a paused one, for its resume."""
        entry = self._living(id)
        async with entry.lock:
            before = self._parts.secrets.now(id)
            news = await self._parts.secrets.give(id, grant)
            if not self._living(id).running:
                await self._parts.secrets.rest(id)
            elif news:
                await self._tell_secrets(entry, before)
        return self.view(entry)

    async def _tell_secrets(self, entry: Entry, before: SecretGrant | None) -> None:
        """Have its guest trust another authority, or leave all as it was."""
        told = self._parts.secrets.introduction(entry.id)
        try:
            await self._parts.guests.tell_secrets(entry.record.address, entry.record.guest_token, told)
        except GuestUnavailable as error:
            await self._parts.secrets.give(entry.id, before)
            if error.extra.get("status") == 404:
                hint = "Make it anew, or give it the rules when it is made."
                raise InvalidRequest("this sandbox was made before its rules could be changed", hint=hint) from error
            raise

    async def start(self) -> None:
        """After the take-over: begin to do things ahead."""
        await self.maker.sweep()
        await self.templates.load()
        self._keeper.start()
        self._beginner.start()

    def take(self, entry: Entry, handle: Handle) -> None:
        """Watch a sandbox that runs: one just booted, or one adopted.

        Its journal entry is not waited for: the journal keeps it once, and if we are killed first, adoption comes here.
        Nor is it written at once: that would cost its caller the machine, just as the first command comes.
        """
        entry.handle = handle
        data = {"boot_ms": entry.record.boot_ms}
        self._spawn(self._parts.journal.insist(entry.id, "sandbox_running", data, within=_TOLD_WITHIN))
        self.watch(entry)

    def watch(self, entry: Entry) -> None:
        """Watch a sandbox that runs, or is paused: then it has nothing but a deadline."""
        if entry.watch is not None:
            entry.watch.cancel()
        if entry.running and entry.handle is not None:
            entry.watch = asyncio.create_task(self._watcher.watch(entry, entry.handle))
            entry.watch.add_done_callback(lambda task: self._watch_over(entry, task))
        elif entry.paused:
            entry.watch = asyncio.create_task(self._watcher.outlive(entry))

    def view(self, entry: Entry) -> NodeSandbox:
        """The sandbox as the API shows it."""
        return entry.view(self._parts.gateway.usage(entry.id) if entry.running else None)

    async def tidy_forever(self) -> None:
        """Finish ends that failed, drop old tombstones, keep figures, trim the journal; every minute."""
        while True:
            try:
                await self._tidy()
            except Exception:
                log.exception("tidying failed")
            await asyncio.sleep(_JANITOR_SECONDS)

    async def stop(self) -> None:
        """Let boots and ends under way finish, stop watching. The sandboxes go on; those that are nobody's go."""
        boots = [entry.boot for entry in self._registry if entry.boot is not None and not entry.boot.done()]
        self._parts.journal.hurry()
        if waiting := {*boots, *self._background, *self.states.working}:
            await asyncio.wait(waiting, timeout=10)
        await self.templates.stop()
        await self._keeper.stop()
        await self._beginner.stop()
        for entry in self._registry:
            if entry.watch is not None:
                entry.watch.cancel()

    def _new(self, id: str, request: BootRequest) -> Entry:
        if self._registry.was_deleted(id):
            raise SandboxNotRunning(f"{id} was deleted")
        if request.deadline <= time.time():
            raise InvalidRequest("the deadline has passed", field="deadline", value=request.deadline)
        self._room.check()
        entry = Entry(
            SandboxRecord(
                id=id,
                step="booting",
                template=request.template,
                resources=request.resources,
                network=request.network,
                deadline=request.deadline,
                guest_token=new_token(),
                started_at=datetime.now(UTC),
                machine_boot=self._machine_boot,
                org=request.org,
                boot_id=str(uuid.uuid4()),
            )
        )
        self._registry.add(entry)
        return entry

    async def _boot(self, entry: Entry, request: BootRequest, watch: Stopwatch) -> None:
        try:
            # What a fork is given back of its disk its own guest puts there, for as long as it likes.
            with contextlib.nullcontext() if request.from_snapshot else self._parts.snapshots.urgent():
                handle = await self._starter.start(entry, request, watch)
        except Exception as error:
            if not entry.doomed.is_set():  # else the deletion that waits for us cleans up
                await self._undo(entry)
            raise as_hutch(error, BootFailed, entry.id, "the boot failed") from error
        self.take(entry, handle)

    async def _undo(self, entry: Entry) -> None:
        """After a boot that failed: nothing is left, the same id may be tried again."""
        try:
            await self.ender.clear(entry)
            await self.ender.forget(entry)
        except Exception:
            log.exception("cleaning up after a failed boot failed; will be tried again", sandbox=entry.id)
            entry.record = entry.record.but(step="ending", death="boot failed")

    def _living(self, id: str) -> Entry:
        entry = self._registry.get(id)
        if not (entry.running or entry.paused or entry.lock.locked()) or entry.record.step in ("ending", "dead"):
            raise SandboxNotRunning(f"{id} is {entry.view().state}")
        return entry

    def _ended(self, entry: Entry, reason: str, breach: LimitBreach | None) -> None:
        self._spawn(self._end(entry, reason, breach))

    async def _end(self, entry: Entry, reason: str, breach: LimitBreach | None) -> None:
        try:
            await self.ender.end(entry, reason, breach)
        except Exception:
            log.exception("ending a sandbox failed; will be tried again", sandbox=entry.id)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _watch_over(self, entry: Entry, task: asyncio.Task[None]) -> None:
        """A sandbox must not run unwatched: if our own watcher failed, it starts again."""
        if task.cancelled() or task.exception() is None or not entry.running or entry.handle is None:
            return
        log.error("watcher failed", sandbox=entry.id, exc_info=task.exception())
        self._spawn(self._watch_again(entry, entry.handle))

    async def _watch_again(self, entry: Entry, handle: Handle) -> None:
        await asyncio.sleep(1.0)
        if entry.running:
            self.take(entry, handle)

    async def _tidy(self) -> None:
        unsettled = []
        for entry in self._registry:
            record = entry.record
            if record.step == "ending" and not entry.lock.locked():
                await self._end(entry, record.death or "", None)
            elif record.step in ("pausing", "resuming") and not entry.lock.locked():
                await self._finish(entry)
            elif record.step == "running" and record.unsettled and not entry.lock.locked():
                unsettled.append(entry)
            elif record.step == "running":
                await self.ender.save(entry)  # the figures: of all else it is up to date
            elif record.step == "dead" and (record.ended_at or 0.0) < time.time() - TOMBSTONE_SECONDS:
                await self.ender.forget(entry)
        await asyncio.gather(*map(self._mend, unsettled))  # each may have to wait for a guest that is slow on purpose
        await self._parts.journal.trim()
        await self._parts.egress_log.trim()
        await self._parts.snapshots.tidy(self._retention, datetime.now(UTC))
        await self.templates.tidy()
        await self._parts.pins.keep_only(self._images)

    async def _mend(self, entry: Entry) -> None:
        """Of a sandbox that runs: what it could not be told."""
        await self._finish(entry)
        async with entry.lock:
            if entry.running and entry.record.next_token:
                await renew_token(self._parts, entry)

    async def _images(self) -> set[str]:
        """Hashes of the images that are needed. Sandboxes are asked last: one that ends leaves its snapshots."""
        nobodys = self.templates.images | self.pool.images | self.kernels.images
        return await self._parts.snapshots.images() | {entry.record.image for entry in self._registry} | nobodys

    def _busy(self) -> bool:
        """Whether so many wait for a start that nothing should be done ahead."""
        waiting = sum(entry.record.step in ("booting", "resuming") for entry in self._registry)
        return waiting >= max(1, (os.cpu_count() or 1) // 2)

    async def _finish(self, entry: Entry) -> None:
        async with entry.lock:
            try:
                await self.states.finish(entry)
            except Exception as error:
                log.error("not finished; will be tried again", sandbox=entry.id, exc_info=error)
