"""Template snapshots and the warm pool with the node killed at every step that touches the host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.node.machine import RESOURCES, Daemon, Host, daemon

from hutch.errors import BootFailed, DiskFull, SnapshotIncompatible, ThawFailed
from hutch.model import AllowAll, BootRequest, DenyAll, PauseRequest, Resources, new_id
from hutch.node.entry import Entry
from hutch.node.warm import Shelf

SANDBOX, OTHER = new_id("sbx"), new_id("sbx")
Operation = Callable[[Daemon], Awaitable[object]]


def request(**changes: object) -> BootRequest:
    known = {"template": "t", "resources": RESOURCES, "network": DenyAll(), "deadline": time.time() + 600}
    return BootRequest.model_validate(known | changes)


async def nothing(node: Daemon) -> None:
    """An image and no more."""


async def freeze(node: Daemon) -> None:
    """The template has a snapshot."""
    await node.sandboxes.templates.make(node.parts.images.resolve("t"))


async def fill(node: Daemon) -> None:
    """One member more waits."""
    shelf = node.sandboxes.pool.shelves.setdefault("t", Shelf("t"))
    await node.sandboxes._keeper._add(shelf)


async def warm(node: Daemon) -> None:
    await freeze(node)
    await fill(node)


async def create(node: Daemon) -> None:
    await node.sandboxes.boot(SANDBOX, request(network=AllowAll()))


async def created(node: Daemon) -> None:
    await warm(node)
    await create(node)
    node.host.kernels[found(node).record.runtime_id].memory = 1


async def pause(node: Daemon) -> None:
    await node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=new_id("snp")))


async def paused(node: Daemon) -> None:
    await created(node)
    await pause(node)


async def resume(node: Daemon) -> None:
    await node.sandboxes.states.resume(SANDBOX)


async def delete(node: Daemon) -> None:
    await node.sandboxes.destroy(SANDBOX)


def found(node: Daemon, id: str = SANDBOX) -> Entry:
    return node.parts.registry.get(id)


async def assert_whole(node: Daemon) -> None:
    """Nothing is on the host but what runs, and each is told who it is."""
    host, registry = node.host, node.parts.registry
    running = [entry.record for entry in registry if entry.running]
    assert set(host.kernels) == {record.runtime_id for record in running}
    assert host.slots == {record.slot for record in running}
    for record in running:
        kernel = host.kernels[record.runtime_id]
        assert (kernel.owner, kernel.token, kernel.cpus) == (record.id, record.guest_token, record.resources.cpus)
    directories = {path.name for path in node.parts.home.sandboxes.iterdir()}
    assert directories == {entry.id for entry in registry} | {record.runtime_id for record in running}
    snapshots = await node.parts.snapshots.records()
    assert {path.name for path in node.parts.home.snapshots.joinpath("hot").iterdir()} == {
        each.id for each in snapshots
    }
    assert sum(each.reason == "template" for each in snapshots) <= 1


CASES = [
    (nothing, freeze),
    (freeze, fill),
    (freeze, create),
    (warm, create),
    (created, pause),
    (paused, resume),
    (created, delete),
]


@pytest.mark.parametrize(("before", "operation"), CASES)
async def test_a_node_killed_at_any_step_leaves_nothing_that_is_nobodys(
    memory: Path, before: Operation, operation: Operation
) -> None:
    step = 0
    while True:
        host = Host(memory / str(step))
        async with daemon(host, warm=True) as node:  # one life: members die with their daemon
            await before(node)
            host.steps, host.kill_at = [], step
            await node.unless_killed(operation(node))
            ended = not host.killed.is_set()
        async with daemon(host, warm=True, kill_takeover_at=step % 6):
            """A second kill, soon after the first."""
        async with daemon(host, warm=True) as node:
            await assert_whole(node)
            entry = node.parts.registry.find(SANDBOX)
            if before in (created, paused) and operation is not delete:
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


async def test_each_way_to_start_says_so_and_why(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        ways = []
        for prepare in (nothing, freeze, fill):
            await prepare(node)
            id = new_id("sbx")
            await node.sandboxes.boot(id, request())
            if prepare is nothing:  # it makes a snapshot in the background
                await asyncio.gather(*node.sandboxes.templates._making.values())
            ways.append((found(node, id).record.start, found(node, id).record.start_reason))
        assert ways == [("boot", "the template t has no snapshot yet"), ("thaw", None), ("warm", None)]
        larger = RESOURCES.model_copy(update={"disk_mib": 128})
        sandbox, _ = await node.sandboxes.boot(new_id("sbx"), request(resources=larger))
        assert sandbox.start == "boot" and "disk size (64 MiB)" in (sandbox.start_reason or "")


@pytest.mark.parametrize(
    ("resources", "way"),
    [({"cpus": 2.0}, "warm"), ({"memory_mib": 128}, "thaw"), ({"disk_mib": 128}, "boot"), ({"pids": 32}, "boot")],
)
async def test_what_is_asked_for_decides_how_it_starts(memory: Path, resources: dict[str, float], way: str) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await warm(node)
        wanted = Resources.model_validate(RESOURCES.model_dump() | resources)
        sandbox, _ = await node.sandboxes.boot(SANDBOX, request(resources=wanted))
        assert sandbox.start == way
        assert node.host.kernels[found(node).record.runtime_id].cpus == wanted.cpus


async def test_two_claims_at_once_never_get_the_same_one(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await warm(node)
        await fill(node)
        ids = [new_id("sbx") for _ in range(4)]
        await asyncio.gather(*(node.sandboxes.boot(id, request()) for id in ids))
        records = [found(node, id).record for id in ids]
        assert sorted(str(record.start) for record in records) == ["thaw", "thaw", "warm", "warm"]
        assert len({record.runtime_id for record in records}) == len({record.slot for record in records}) == 4
        assert len({record.guest_token for record in records}) == len({record.boot_id for record in records}) == 4
        await assert_whole(node)


async def test_a_member_that_does_not_answer_is_dropped_and_the_next_is_taken(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await warm(node)
        await fill(node)
        first = next(iter(node.sandboxes.pool))
        node.host.kernels[first.entry.id].token = "another"
        sandbox, _ = await node.sandboxes.boot(SANDBOX, request())
        assert sandbox.start == "warm"
        assert first.entry.id not in node.host.kernels
        await assert_whole(node)


@pytest.mark.parametrize("wrong", [SnapshotIncompatible("another CPU"), ThawFailed("it crashed")])
async def test_a_snapshot_that_cannot_be_thawed_is_no_reason_to_fail(memory: Path, wrong: Exception) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await freeze(node)
        node.host.fail, node.host.wrong = "thaw", wrong
        sandbox, _ = await node.sandboxes.boot(SANDBOX, request())
        assert sandbox.start == "boot" and str(wrong) in (sandbox.start_reason or "")
        await asyncio.gather(*node.sandboxes.templates._making.values())
        sandbox, _ = await node.sandboxes.boot(OTHER, request())
        assert sandbox.start == "thaw"
        await assert_whole(node)


@pytest.mark.parametrize("wrong", [DiskFull("the disk is full"), BootFailed("no")])
async def test_a_template_that_cannot_be_frozen_boots_and_says_why(memory: Path, wrong: Exception) -> None:
    async with daemon(Host(memory), warm=True) as node:
        node.host.fail, node.host.wrong = "freeze", wrong
        with pytest.raises(type(wrong)):
            await freeze(node)
        await assert_whole(node)
        sandbox, _ = await node.sandboxes.boot(SANDBOX, request())
        assert sandbox.start == "boot" and str(wrong) in (sandbox.start_reason or "")
        assert not node.sandboxes.templates._making  # not again so soon


async def test_two_who_build_at_once_make_one_snapshot(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await asyncio.gather(freeze(node), freeze(node))
        assert node.host.steps.count("freeze") == 1
        assert len(await node.parts.snapshots.records()) == 1


async def test_a_snapshot_of_an_image_that_is_no_template_any_more_goes(memory: Path) -> None:
    async with daemon(Host(memory), warm=True) as node:
        await freeze(node)
        await node.sandboxes._tidy()
        assert len(await node.parts.snapshots.records()) == 1
        node.parts.images.templates = list  # type: ignore[method-assign, assignment]
        await node.sandboxes._tidy()
        assert await node.parts.snapshots.records() == []
