"""What guests do for the node, while it saves them and brings them back, they do within their own limits."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.unit.node.machine import RESOURCES, Host, Kernel, SteppingStore, daemon
from tests.unit.node.test_state_killed import (
    FORK,
    SANDBOX,
    Operation,
    assert_whole,
    hibernate,
    pause_with_disk,
    request,
    resume,
    running,
)

from hutch.errors import FreezeFailed
from hutch.model import PauseRequest, SnapshotKind, SnapshotRequest, new_id
from hutch.node import guest_disk


async def test_a_guest_works_with_its_own_cores_and_keeps_nothing_else_back(memory: Path) -> None:
    host, seen = Host(memory), list[tuple[str, float, bool, bool]]()
    async with daemon(host) as node:
        store = node.parts.snapshots._store
        assert isinstance(store, SteppingStore)

        def at_work(work: str, kernel: Kernel) -> None:
            entry = node.parts.registry.get(SANDBOX)
            watched = entry.watch is not None and not (entry.watch.done() or entry.watch.cancelling())
            seen.append((work, kernel.cpus, store._parts.pace._urgent > 0, watched))

        host.at_work = at_work
        await running(node)
        await hibernate(node)
        await resume(node)
        await pause_with_disk(node)
        await resume(node)
        saved = new_id("snp")
        await node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=saved, kind=SnapshotKind.DISK))
        await node.sandboxes.boot(FORK, request(from_snapshot=saved))
        works = ["pack", "restore", "pack", "introduce", "pack", "restore"]
        assert [each[:3] for each in seen] == [(work, RESOURCES.cpus, False) for work in works]
        assert all(watched for work, _, _, watched in seen if work == "pack")


async def test_a_freeze_and_a_thaw_have_all_cores(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        found: list[float] = []
        step = host.step

        def stepping(name: str) -> None:
            if name in ("freeze", "introduce"):
                found.extend(kernel.cpus for kernel in host.kernels.values())
            step(name)

        monkeypatch.setattr(host, "step", stepping)
        await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=new_id("snp")))
        await pause_with_disk(node)
        await resume(node)
        assert found == [7, 7, RESOURCES.cpus]
        await assert_whole(node, {1})


@pytest.mark.parametrize("operation", [hibernate, pause_with_disk])
async def test_a_sandbox_ends_at_its_deadline_though_its_disk_is_packed(memory: Path, operation: Operation) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        entry = node.parts.registry.get(SANDBOX)
        host.packed = asyncio.Event().wait  # type: ignore[assignment]
        await node.sandboxes.set_deadline(SANDBOX, time.time() + 0.2)
        with pytest.raises(FreezeFailed):
            async with asyncio.timeout(10):
                await operation(node)
        await asyncio.wait({*node.sandboxes._background}, timeout=5)
        assert (entry.record.step, entry.record.death) == ("dead", "its lifetime is over")
        assert not host.kernels and not host.slots


def test_no_disk_is_packed_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert guest_disk._seconds(1 << 40) > guest_disk._MOST_PACKING_SECONDS
