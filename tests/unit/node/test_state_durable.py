"""What was answered survives a power cut."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.node.machine import Host, SteppingStore, after, daemon
from tests.unit.node.test_state_killed import NEW, SANDBOX, pause, resume, running, snapshot

from hutch.errors import DiskFull
from hutch.snapshots import background
from hutch.snapshots.disk import Disk


class Slow(Disk):
    """Nothing reaches it before it is let."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.asked = threading.Event()
        self.full = False

    def sync_path(self, path: Path) -> None:
        self.asked.set()
        assert self.reached.wait(30)
        if self.full:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("work", [pause, snapshot])
async def test_a_pause_and_a_snapshot_are_answered_when_a_power_cut_cannot_take_them(memory: Path, work: Any) -> None:
    host, disk = Host(memory), Slow()
    async with daemon(host) as node:
        await running(node)
    host.disk = disk
    async with daemon(host) as node:
        working = asyncio.ensure_future(work(node))
        assert await asyncio.to_thread(disk.asked.wait, 30)
        await asyncio.wait({working}, timeout=0.3)
        assert not working.done()
        disk.reached.set()
        await working
        progress = {one.id: one for one in cast(SteppingStore, node.parts.snapshots._store)._parts.catalog.progress()}
        assert progress[NEW].synced or progress[NEW].stored


async def test_a_pause_whose_snapshot_does_not_reach_the_disk_is_finished_when_it_does(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.05)
    host, disk = Host(memory), Slow()
    async with daemon(host) as node:
        await running(node)
    host.disk = disk
    disk.reached.set()
    async with daemon(host) as node:
        store = cast(SteppingStore, node.parts.snapshots._store)
        await asyncio.gather(*(store.wait_stored(each.id) for each in await store.records()))
        monkeypatch.setattr(store._background, "_store_round", lambda: asyncio.sleep(0))
        disk.full = True
        with pytest.raises(DiskFull):
            await pause(node)
        entry = node.parts.registry.get(SANDBOX)
        assert entry.record.step == "pausing" and not host.kernels
        disk.full = False
        await node.sandboxes._tidy()
        assert entry.paused
        await resume(node)
        assert host.kernels[SANDBOX].memory == 1


async def test_a_power_cut_in_the_middle_of_a_pause_leaves_the_sandbox_dead_or_paused(memory: Path) -> None:
    kept, step, seen = await after(memory, running), 0, set[str]()
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            answer = await node.unless_killed(pause(node))
        host.kernels.clear()
        host.slots.clear()
        host.boot = "another"
        async with daemon(host) as node:
            record = node.parts.registry.get(SANDBOX).record
            seen.add(record.step)
            if answer is not None:
                assert record.step == "paused"
            if record.step == "paused":
                await resume(node)
                assert host.kernels[SANDBOX].memory == 1
        if answer is not None:
            break
        step += 1
    assert seen == {"paused", "dead"}
