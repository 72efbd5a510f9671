"""Pause, resume, snapshot, rollback and fork with the node killed at every step that touches the host."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs
from tests.unit.node.machine import RESOURCES, Daemon, Host, SteppingStore, after, daemon

from hutch.errors import FreezeFailed, GuestUnavailable, HutchError, LimitReached, ThawFailed
from hutch.model import (
    BootRequest,
    DenyAll,
    PauseRequest,
    RollbackRequest,
    SnapshotKind,
    SnapshotRequest,
    new_id,
)
from hutch.node import room
from hutch.node.entry import Entry

SANDBOX, FORK, TARGET, NEW = new_id("sbx"), new_id("sbx"), new_id("snp"), new_id("snp")
Operation = Callable[[Daemon], Awaitable[object]]


def request(**changes: object) -> BootRequest:
    known = {"template": "t", "resources": RESOURCES, "network": DenyAll(), "deadline": time.time() + 600}
    return BootRequest.model_validate(known | changes)


async def running(node: Daemon) -> None:
    """A sandbox with 1 in its memory, of which `TARGET` was taken with 0."""
    await node.sandboxes.boot(SANDBOX, request())
    await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=TARGET))
    node.host.kernels[SANDBOX].memory = 1


async def paused(node: Daemon) -> None:
    await running(node)
    await node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=new_id("snp")))


def pause(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=NEW))


async def hibernated(node: Daemon) -> None:
    await running(node)
    await hibernate(node)


def hibernate(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=new_id("snp"), kind=SnapshotKind.DISK))


def pause_with_disk(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=new_id("snp"), disk=True))


def resume(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.resume(SANDBOX)


def snapshot(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=NEW))


def snapshot_of_the_disk(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=NEW, kind=SnapshotKind.DISK))


def snapshot_with_disk(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=NEW, disk=True))


def rollback(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.states.rollback(SANDBOX, RollbackRequest(snapshot=TARGET, safety=NEW))


def fork(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.boot(FORK, request(from_snapshot=TARGET))


def delete(node: Daemon) -> Awaitable[object]:
    return node.sandboxes.destroy(SANDBOX)


STEPS = ["record", "pack", "freeze", "seal", "kill", "admit", "acquire", "thaw", "introduce", "renew", "limit", "go on"]
CASES = [
    (running, pause, {1}),
    (running, hibernate, {1}),
    (running, pause_with_disk, {1}),
    (running, snapshot_of_the_disk, {1}),
    (running, snapshot_with_disk, {1}),
    (paused, resume, {1}),
    (hibernated, resume, {1}),
    (running, snapshot, {1}),
    (paused, snapshot, {1}),
    (running, rollback, {0, 1}),
    (paused, rollback, {0, 1}),
    (hibernated, rollback, {0, 1}),
    (running, fork, {1}),
    (paused, delete, {None, 1}),
]


async def assert_whole(node: Daemon, memories: set[int | None]) -> None:
    """All that is known agrees with all that is there, and the sandbox still has a memory of `memories`."""
    host, registry = node.host, node.parts.registry
    alive = {entry.id for entry in registry if entry.running}
    assert set(host.kernels) == alive
    assert host.slots == {entry.record.slot for entry in registry if entry.running}
    assert all(kernel.cpus == RESOURCES.cpus and not kernel.still for kernel in host.kernels.values())
    for entry in registry:
        assert entry.record.step in ("running", "paused", "dead")
        left = {path.name for path in node.parts.records.directory(entry.id).iterdir()}
        assert left == ({"record.json", "runtime"} if entry.running else {"record.json"})
        if entry.running:
            assert host.kernels[entry.id].token in (entry.record.guest_token, entry.record.next_token)
    await node.sandboxes._tidy()
    for entry in registry:
        if entry.running:
            assert host.kernels[entry.id].token == entry.record.guest_token
    records = await node.parts.snapshots.records()
    assert {path.name for path in node.parts.home.snapshots.joinpath("hot").iterdir()} == {r.id for r in records}
    sandbox = registry.find(SANDBOX)
    if sandbox is None or sandbox.record.step == "dead":
        assert None in memories
        return
    wanted = {1} if sandbox.paused else memories  # a rollback that was broken off has not happened
    await resume(node)
    assert host.kernels[SANDBOX].memory in wanted
    assert host.kernels[SANDBOX].token == sandbox.record.guest_token


@pytest.mark.parametrize(("before", "operation", "memories"), CASES)
async def test_a_node_killed_at_any_step_loses_nothing(
    memory: Path, before: Operation, operation: Operation, memories: set[int | None]
) -> None:
    kept, step = await after(memory, before), 0
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            await node.unless_killed(operation(node))
            ended = not host.killed.is_set()
        async with daemon(host, kill_takeover_at=step % 6):
            """A second kill, soon after the first."""
        async with daemon(host) as node:
            await assert_whole(node, memories)
        if ended:
            break
        step += 1
    assert step >= 2


@pytest.mark.parametrize("before", [running, paused])
async def test_a_rollback_that_is_asked_for_again_after_a_kill_is_done_once(memory: Path, before: Operation) -> None:
    kept, step = await after(memory, before), 0
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            await node.unless_killed(rollback(node))
            ended = not host.killed.is_set()
        async with daemon(host) as node:
            await rollback(node)
            assert host.kernels[SANDBOX].memory == 0
            host.kernels[SANDBOX].memory = 5
            await rollback(node)
            assert host.kernels[SANDBOX].memory == 5
            (safety,) = [each for each in await node.parts.snapshots.records() if each.id == NEW]
            assert safety.reason == "safety"
        if ended:
            break
        step += 1
    assert step > 5


async def test_a_rollback_to_what_it_stands_on_that_is_asked_for_again_after_a_kill_has_it_run(memory: Path) -> None:
    kept, step = await after(memory, paused), 0
    async with daemon(kept.again()) as node:
        stands_on = node.parts.registry.get(SANDBOX).record.snapshot
    assert stands_on is not None
    again = RollbackRequest(snapshot=stands_on, safety=NEW)
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            await node.unless_killed(node.sandboxes.states.rollback(SANDBOX, again))
            ended = not host.killed.is_set()
        async with daemon(host) as node:
            await node.sandboxes.states.rollback(SANDBOX, again)
            assert node.parts.registry.get(SANDBOX).running
            assert host.kernels[SANDBOX].memory == 1
        if ended:
            break
        step += 1
    assert step > 3


async def test_a_paused_sandbox_survives_a_restart_of_the_machine_and_a_running_one_does_not(memory: Path) -> None:
    host, other = Host(memory), new_id("sbx")
    async with daemon(host) as node:
        await paused(node)
        await node.sandboxes.boot(other, request())
        for entry in node.parts.registry:
            entry.record = entry.record.but(machine_boot="an earlier one")
            await node.parts.records.save(entry.record)
    host.kernels.clear()
    host.slots.clear()
    async with daemon(host) as node:
        registry = node.parts.registry
        assert registry.get(SANDBOX).paused
        assert (registry.get(other).record.step, registry.get(other).record.death) == (
            "dead",
            "the machine was restarted",
        )
        await resume(node)
    async with daemon(host) as node:
        assert node.parts.registry.get(SANDBOX).running
        await assert_whole(node, {1})


async def test_a_paused_sandbox_whose_snapshot_is_gone_is_dead_and_says_so(memory: Path) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await paused(node)
        stands_on = node.parts.registry.get(SANDBOX).record.snapshot
        assert stands_on is not None
        await cast(SteppingStore, node.parts.snapshots._store).delete(stands_on)
    async with daemon(host) as node:
        record = node.parts.registry.get(SANDBOX).record
        assert (record.step, record.death) == ("dead", "its snapshot is not there")


async def test_a_node_that_is_full_leaves_it_paused(memory: Path) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await paused(node)
        for _ in range(5):
            await node.sandboxes.boot(new_id("sbx"), request())
        for work in (resume, rollback):
            with pytest.raises(LimitReached):
                await work(node)
            assert node.parts.registry.get(SANDBOX).paused
        assert [each.id for each in await node.parts.snapshots.records()].count(NEW) == 0


@pytest.mark.parametrize(("before", "operation", "memories"), CASES[:8])
async def test_an_operation_in_which_anything_goes_wrong_loses_nothing(
    memory: Path, before: Operation, operation: Operation, memories: set[int | None]
) -> None:
    kept = await after(memory, before)
    async with daemon(host := kept.again()) as node:
        await operation(node)
        taken = [name for name in STEPS if name in host.steps]
    assert len(taken) >= 3
    for wrong in (OSError(28, "No space left on device"), HutchError("wrong")):
        for name in taken:
            host = kept.again()
            async with daemon(host) as node:
                host.fail, host.wrong, host.times = name, wrong, 2 if name == "go on" else 1
                with contextlib.suppress(HutchError, OSError):
                    await operation(node)
                if operation is rollback and name in ("acquire", "thaw", "introduce"):
                    known = node.parts.registry.get(SANDBOX)
                    assert known.running == (before is running) and known.record.step in ("running", "paused")
                host.wrong = None
                for entry in node.parts.registry:
                    async with entry.lock:
                        await node.sandboxes.states.finish(entry)
                await assert_whole(node, memories)


@pytest.mark.parametrize("operation", [hibernate, pause_with_disk])
async def test_a_guest_that_lies_when_it_packs_goes_on_as_it_was(memory: Path, operation: Operation) -> None:
    """Whatever its words do to the reader: here they are no text, which no check of ours has foreseen."""
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        host.env = b'{"A": "\\ud800"}'
        with pytest.raises(FreezeFailed):
            await operation(node)
        assert node.parts.registry.get(SANDBOX).watch is not None
        host.env = b""
        await assert_whole(node, {1})


@pytest.mark.parametrize("wrong", [ValueError("unforeseen"), asyncio.CancelledError()])
@pytest.mark.parametrize("name", ["record", "pack", "freeze", "seal", "kill"])
async def test_a_pause_that_breaks_off_anywhere_is_finished(memory: Path, wrong: BaseException, name: str) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        host.fail, host.wrong = name, wrong
        with contextlib.suppress(HutchError, ValueError, asyncio.CancelledError):
            await pause_with_disk(node)
        assert host.wrong is None
        await node.sandboxes._tidy()
        await assert_whole(node, {1})


@pytest.mark.parametrize("whole", [False, True])
async def test_a_pause_that_nobody_works_on_is_settled(memory: Path, whole: bool) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        entry = node.parts.registry.get(SANDBOX)
        taking = SnapshotRequest(snapshot=NEW)
        entry.record = entry.record.but(step="pausing", taking=taking)
        host.kernels[SANDBOX].cpus, host.kernels[SANDBOX].still = 99, True
        entry.record = entry.record.but(still=True)
        if whole:
            assert entry.handle is not None
            into = node.parts.records.frozen_directory(SANDBOX, NEW)
            await node.parts.runtime.freeze(entry.handle, into, keep_running=True)
        await node.sandboxes._tidy()
        assert entry.paused == whole and entry.running != whole
        await assert_whole(node, {1})


@pytest.mark.parametrize("operation", [snapshot_of_the_disk, snapshot_with_disk])
async def test_a_sandbox_that_is_not_told_to_go_on_is_told_again(memory: Path, operation: Operation) -> None:
    """By the janitor, by the next daemon, and before anything else is done with it."""
    for again in ("tidy", "daemon", "operation"):
        host = Host(memory / again)
        async with daemon(host) as node:
            await running(node)
            host.fail, host.wrong, host.times = "go on", GuestUnavailable("no answer"), 2
            with capture_logs() as logs:
                await operation(node)
            warnings = [line["event"] for line in logs if line["log_level"] == "warning"]
            assert warnings == ["guest does not say that it goes on"] * 2
            assert host.kernels[SANDBOX].still
            if again == "tidy":
                await node.sandboxes._tidy()
            elif again == "operation":
                await operation(node)
            if again != "daemon":
                await assert_whole(node, {1})
        async with daemon(host) as node:
            await assert_whole(node, {1})


@pytest.mark.parametrize("before", [running, paused])
async def test_a_snapshot_that_a_kill_interrupts_is_a_parent_that_shares_no_token(
    memory: Path, before: Operation
) -> None:
    kept, step = await after(memory, before), 0
    async with daemon(kept.again()) as node:
        ago = node.parts.registry.get(SANDBOX).record.parent
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            await node.unless_killed(snapshot(node))
            ended = not host.killed.is_set()
        async with daemon(host) as node:
            taken = await node.parts.snapshots.find(NEW)
            known = node.parts.registry.get(SANDBOX)
            assert known.record.parent == (NEW if taken is not None else ago)
            assert await snapshot(node) is not None
            await node.sandboxes._tidy()
            assert known.record.parent == NEW
            if known.running:
                async with node.parts.snapshots.opened(NEW) as (directory, note):
                    frozen = json.loads((directory / "pages.img").read_bytes())["token"]
                assert frozen in (note.guest_token, note.next_token)
                assert host.kernels[SANDBOX].token == known.record.guest_token != frozen
                assert known.record.guest_token not in (note.guest_token, note.next_token)
        if ended:
            break
        step += 1
    assert step > 2


async def test_a_rollback_that_fails_when_it_is_asked_for_again_after_a_kill_has_a_running_one_run_on(
    memory: Path,
) -> None:
    kept, step = await after(memory, running), 0
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            await node.unless_killed(rollback(node))
            ended = not host.killed.is_set()
        async with daemon(host) as node:
            entry = node.parts.registry.get(SANDBOX)
            if entry.record.rolled_back != NEW:
                host.fail, host.wrong = "thaw", HutchError("wrong")
                with pytest.raises(ThawFailed, match="it runs on as it was"):
                    await rollback(node)
                assert host.kernels[SANDBOX].memory == 1
            assert entry.running
        if ended:
            break
        step += 1
    assert step > 5


async def test_many_that_come_back_at_once_are_not_more_than_the_node_may_have(memory: Path) -> None:
    host, many = Host(memory), [new_id("sbx") for _ in range(8)]
    async with daemon(host) as node:
        states, targets = node.sandboxes.states, dict[str, str]()
        for each in many:
            await node.sandboxes.boot(each, request())
            targets[each] = new_id("snp")
            await states.pause(each, PauseRequest(snapshot=targets[each]))
        back = [states.resume(each) for each in many[:4]]
        back += [states.rollback(e, RollbackRequest(snapshot=targets[e], safety=new_id("snp"))) for e in many[4:]]
        results = await asyncio.gather(*back, return_exceptions=True)
        refused = [each for each in results if isinstance(each, LimitReached)]
        assert len(host.kernels) == node.parts.registry.alive() == 5
        assert len(refused) == 3


async def test_one_that_is_taken_back_keeps_its_place(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        for _ in range(4):
            await node.sandboxes.boot(new_id("sbx"), request())
        rest = node.sandboxes.states.pauser.rest

        async def resting(entry: Entry, *stands_on: Any, **more: Any) -> None:
            await rest(entry, *stands_on, **more)
            with pytest.raises(LimitReached):
                await node.sandboxes.boot(new_id("sbx"), request())

        monkeypatch.setattr(node.sandboxes.states.pauser, "rest", resting)
        await rollback(node)
        assert len(host.kernels) == 5 and host.kernels[SANDBOX].memory == 0


async def test_memory_that_is_just_being_loaded_is_not_promised_twice(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, other = Host(memory), new_id("sbx")
    async with daemon(host) as node:
        await paused(node)
        await node.sandboxes.boot(other, request())
        await node.sandboxes.states.pause(other, PauseRequest(snapshot=new_id("snp")))
        monkeypatch.setattr(room.Need, "of", lambda *_: room.Need(memory=50 << 20))
        monkeypatch.setattr(room, "memory_available", lambda: room._SPARE_MEMORY + (80 << 20))
        results = await asyncio.gather(resume(node), node.sandboxes.states.resume(other), return_exceptions=True)
        (refused,) = [each for each in results if isinstance(each, Exception)]
        assert isinstance(refused, LimitReached) and refused.extra["limit"] == "node_memory"
        await node.sandboxes.states.resume(SANDBOX)
        await node.sandboxes.states.resume(other)


async def test_a_full_disk_keeps_the_janitor_from_nothing(memory: Path) -> None:
    host, other = Host(memory), new_id("sbx")
    async with daemon(host) as node:
        await node.sandboxes.boot(other, request())
        await running(node)
        host.fail, host.wrong, host.times = "go on", GuestUnavailable("no answer"), 2
        await snapshot_of_the_disk(node)
        assert host.kernels[SANDBOX].still
        host.fail, host.wrong = "record", OSError(28, "No space left on device")  # meets the other's figures
        await node.sandboxes._tidy()
        assert host.wrong is None and not host.kernels[SANDBOX].still
