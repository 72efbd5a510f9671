"""Kernels that are begun ahead of thaws: who gets one, when they are begun, and the node killed at every step."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.machine import RESOURCES, Daemon, Host, daemon
from tests.unit.node.test_warm_keeping import GIB, until
from tests.unit.node.test_warm_killed import (
    OTHER,
    SANDBOX,
    assert_whole,
    create,
    created,
    delete,
    found,
    freeze,
    pause,
    paused,
    request,
    resume,
)

from hutch.errors import BootFailed, SnapshotCorrupt, SnapshotIncompatible, ThawFailed
from hutch.model import AllowAll, RollbackRequest, SnapshotRequest, new_id
from hutch.node import beginning, keeping
from hutch.node.kernels import Rack, Shape

Operation = Callable[[Daemon], Awaitable[object]]


@pytest.fixture(autouse=True)
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with memory to spare, on which nothing waits for quiet."""
    monkeypatch.setattr(keeping, "memory_available", lambda: 64 * GIB)
    monkeypatch.setattr(beginning, "_AFTER_DEMAND", 0.0)
    monkeypatch.setattr(beginning, "_SOON", 0.001)


async def begin(node: Daemon) -> None:
    """One more waits, of the shape that all sandboxes here have."""
    kernels = node.sandboxes.kernels
    (shape,) = kernels.racks or [Shape("hash", RESOURCES.memory_mib, RESOURCES.disk_mib, RESOURCES.pids)]
    rack = kernels.racks.setdefault(shape, Rack(shape))
    await node.sandboxes._beginner._begin(rack)


async def look(node: Daemon) -> None:
    """One look at everything."""
    beginner = node.sandboxes._beginner
    beginner._aim()
    beginner._drain()
    await beginner._fill()
    await asyncio.gather(*node.sandboxes.kernels._ends)


async def frozen_and_begun(node: Daemon) -> None:
    await freeze(node)
    await begin(node)


async def paused_and_begun(node: Daemon) -> None:
    await paused(node)
    await begin(node)


async def resumed_in_it(node: Daemon) -> None:
    await paused_and_begun(node)
    await resume(node)
    assert found(node).record.member is not None


async def rollback(node: Daemon) -> None:
    snapshot = found(node).record.parent
    assert snapshot is not None
    await node.sandboxes.states.rollback(SANDBOX, RollbackRequest(snapshot=snapshot, safety=new_id("snp")))


async def rolled_back_with_one(node: Daemon) -> None:
    await resumed_in_it(node)
    await begin(node)


CASES = [
    (created, begin),
    (frozen_and_begun, create),
    (paused_and_begun, resume),
    (resumed_in_it, pause),
    (resumed_in_it, delete),
    (rolled_back_with_one, rollback),
]


@pytest.mark.parametrize(("before", "operation"), CASES)
async def test_a_node_killed_at_any_step_leaves_nothing_that_is_nobodys(
    memory: Path, before: Operation, operation: Operation
) -> None:
    step = 0
    while True:
        host = Host(memory / str(step))
        async with daemon(host, warm=True) as node:
            await before(node)
            host.steps, host.kill_at = [], step
            await node.unless_killed(operation(node))
            ended = not host.killed.is_set()
        async with daemon(host, warm=True, kill_takeover_at=step % 6):
            """A second kill, soon after the first."""
        async with daemon(host, warm=True) as node:
            await assert_whole(node)
            entry = node.parts.registry.find(SANDBOX)
            if before is not frozen_and_begun and operation is not delete:
                assert entry is not None and (entry.running or entry.paused)
                await resume(node)
                assert host.kernels[entry.record.runtime_id].memory == 1
            elif entry is not None and entry.record.step == "dead":
                await delete(node)
            await node.sandboxes.boot(OTHER, request())
            assert found(node, OTHER).running
        if ended:
            break
        step += 1
    assert step >= 2


async def test_whoever_is_thawed_gets_one_and_it_is_theirs(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        kernels, host = node.sandboxes.kernels, node.host
        await paused_and_begun(node)
        (begun,) = kernels
        assert node.sandboxes._room.spare["kernels"] == kernels.memory_bytes == begun.memory > 0
        assert [sandbox.id for sandbox in node.sandboxes.list()] == [SANDBOX]
        figures = found(node).record.figures.cpu_seconds
        host.steps.clear()
        await resume(node)
        record = found(node).record
        assert (record.member, record.slot, record.address) == (
            begun.entry.id,
            begun.entry.record.slot,
            begun.entry.record.address,
        )
        assert host.steps.index("policy") < host.steps.index("thaw") and "acquire" not in host.steps
        assert len(kernels) == 0 and node.sandboxes._room.spare["kernels"] == 0
        # What the kernel had used before is not its owner's: the paper runtime always says one second.
        assert (await node.sandboxes.get(SANDBOX)).cpu_seconds == figures
        assert host.kernels[begun.entry.id].cpus == record.resources.cpus
        await pause(node)
        assert found(node).record.member is None
        await resume(node)  # without one it goes as before
        assert host.kernels[SANDBOX].memory == 1
        await assert_whole(node)


async def test_a_create_a_fork_and_a_rollback_use_them(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await frozen_and_begun(node)
        await node.sandboxes.boot(SANDBOX, request(network=AllowAll()))
        assert found(node).record.start == "thaw" and found(node).record.member is not None
        taken = await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=new_id("snp"), reason="manual"))
        await begin(node)
        await node.sandboxes.boot(OTHER, request(from_snapshot=taken.id))
        assert found(node, OTHER).record.member is not None
        await begin(node)
        await rollback(node)
        assert found(node).record.member is not None
        await assert_whole(node)


async def test_two_at_once_never_get_the_same_one(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await frozen_and_begun(node)
        await begin(node)
        ids = [new_id("sbx") for _ in range(4)]
        await asyncio.gather(*(node.sandboxes.boot(id, request()) for id in ids))
        records = [found(node, id).record for id in ids]
        assert sum(record.member is not None for record in records) == 2
        assert len({record.runtime_id for record in records}) == len({record.slot for record in records}) == 4
        await assert_whole(node)


@pytest.mark.parametrize("wrong", [ThawFailed("it crashed"), SnapshotIncompatible("no"), SnapshotCorrupt("no")])
async def test_one_that_is_not_fit_is_no_reason_to_fail(memory: Path, wrong: Exception) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await paused_and_begun(node)
        node.host.fail, node.host.wrong = "thaw", wrong
        await resume(node)
        record = found(node).record
        assert record.member is None and node.host.kernels[SANDBOX].memory == 1
        await assert_whole(node)


async def test_one_that_dies_is_not_lent(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def end(pid: int) -> None:
        await ended.wait()

    monkeypatch.setattr("hutch.node.kernels.process_end", end)
    async with daemon(Host(memory), warm=True) as node:
        await paused_and_begun(node)
        ended.set()
        await until(lambda: len(node.sandboxes.kernels) == 0)
        await asyncio.gather(*node.sandboxes.kernels._ends)
        await assert_whole(node)


async def test_they_follow_demand_and_no_more_than_the_setting_says(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        kernels = node.sandboxes.kernels
        await look(node)
        assert len(kernels) == 0
        await created(node)  # booted from the image: of the template's snapshot nothing was thawed but by the pool
        await look(node)
        assert len(kernels) == 0
        for wanted in (pause, resume):
            await wanted(node)
            for _ in range(4):
                await look(node)
        (rack,) = kernels.racks.values()
        assert rack.target == len(kernels) == kernels.limit == 2
        assert {node.host.kernels[begun.entry.id].cpus for begun in kernels} == {0.5}
        rack.demand._times.clear()
        await look(node)
        assert len(kernels) == 0
        await look(node)
        assert kernels.racks == {}
        await assert_whole(node)


async def test_a_snapshot_is_demand_too(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await created(node)
        await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=new_id("snp"), reason="manual"))
        await look(node)
        assert len(node.sandboxes.kernels) == 1


async def test_none_is_begun_while_somebody_waits_or_memory_is_short(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    async with daemon(Host(memory), warm=True) as node:
        kernels = node.sandboxes.kernels
        await paused(node)
        await create_other(node)
        entry = found(node, OTHER)
        entry.record = entry.record.but(step="booting")
        await look(node)
        assert len(kernels) == 0
        entry.record = entry.record.but(step="running")
        for available, expected in ((2 * GIB, 1), (int(1.6 * GIB), 1), (int(1.4 * GIB), 0), (int(1.6 * GIB), 0)):
            monkeypatch.setattr(keeping, "_SHORT_LEAST", GIB)
            monkeypatch.setattr(keeping, "_SHORT_SHARE", 0)
            monkeypatch.setattr(keeping, "memory_available", lambda available=available: available)
            await look(node)
            assert len(kernels) == expected
        await assert_whole(node)


async def create_other(node: Daemon) -> None:
    await node.sandboxes.boot(OTHER, request())


async def test_three_shapes_that_take_turns_do_not_push_each_other_out(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        kernels = node.sandboxes.kernels
        await paused(node)
        record = found(node).record
        kernels.racks.clear()
        shapes = [record.but(resources=RESOURCES.model_copy(update={"memory_mib": mib})) for mib in (64, 128, 256)]
        for each in shapes:
            kernels.wanted(each)
            await look(node)
        assert node.host.steps.count("begin") == 2 and kernels.take(shapes[2]) is None
        kernels.racks[Shape.of(shapes[0])].demand._times[-1] -= 120.0  # a while ago
        kernels.wanted(shapes[2])
        await look(node)
        begun = kernels.take(shapes[2])
        assert begun is not None and kernels.take(shapes[0]) is None
        await kernels.remove(begun.entry)


async def test_one_that_cannot_be_begun_is_not_tried_again_at_once(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await paused(node)
        node.host.fail, node.host.wrong = "begin", BootFailed("no")
        await look(node)
        (rack,) = node.sandboxes.kernels.racks.values()
        assert len(rack.waiting) == 0 and rack.not_before > time.monotonic() + 1
        await look(node)
        assert len(rack.waiting) == 0
        await assert_whole(node)


async def test_they_are_begun_by_themselves_and_removed_when_the_node_stops(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        node.sandboxes.pool.limit = 0
        await node.sandboxes.start()
        await paused(node)
        await until(lambda: len(node.sandboxes.kernels) == 1)
        await node.sandboxes.stop()
        assert len(node.sandboxes.kernels) == 0
        await assert_whole(node)


@pytest.mark.parametrize("off", ["setting", "runtime"])
async def test_where_they_are_off_nothing_is_noted(memory: Path, monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    from tests.unit.node import machine

    if off == "runtime":
        monkeypatch.setattr(machine.PaperRuntime, "begins", False)
    async with daemon(Host(memory), warm=True) as node:
        if off == "setting":
            settings: Any = node.parts.settings.model_copy(update={"kernels_ahead": 0})
            object.__setattr__(node.parts, "settings", settings)
            node.sandboxes.kernels.limit = 0
        await paused(node)
        await node.sandboxes.start()
        assert node.sandboxes.kernels.racks == {} and node.sandboxes._beginner._task is None
