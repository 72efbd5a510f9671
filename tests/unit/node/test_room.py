"""What is loaded at once fits together, or is refused before it is begun."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.node.machine import RESOURCES, Host, daemon
from tests.unit.node.test_state_killed import SANDBOX, TARGET, request, rollback, running
from tests.unit.snapshots.make import record

from hutch.errors import DiskFull, HutchError, LimitReached
from hutch.model import SnapshotKind, new_id
from hutch.node import room
from hutch.node.room import Need

MIB = 1 << 20


def leave(monkeypatch: pytest.MonkeyPatch, *, memory: int = 1 << 30, disk: int = 1 << 30) -> None:
    """So much is free beyond what has to stay free."""
    monkeypatch.setattr(room, "memory_available", lambda: room._SPARE_MEMORY + memory)
    monkeypatch.setattr(room, "disk_free", lambda path: room.SPARE_DISK + disk)


@pytest.mark.parametrize(
    ("free", "need", "error"),
    [
        ({"memory": 170 * MIB}, Need(memory=50 * MIB), LimitReached),
        ({"disk": 170 * MIB}, Need(disk=50 * MIB), DiskFull),
    ],
)
async def test_forks_at_once_are_not_promised_the_same_room(
    memory: Path, monkeypatch: pytest.MonkeyPatch, free: dict[str, int], need: Need, error: type[HutchError]
) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        monkeypatch.setattr(Need, "of", lambda *_: need)
        leave(monkeypatch, **free)
        boots = [node.sandboxes.boot(new_id("sbx"), request(from_snapshot=TARGET)) for _ in range(4)]
        results = await asyncio.gather(*boots, return_exceptions=True)
        assert [type(each) for each in results if isinstance(each, Exception)] == [error]
        assert len(host.kernels) == node.parts.registry.alive() == 4
        await node.sandboxes.boot(new_id("sbx"), request(from_snapshot=TARGET))


async def test_nor_are_boots(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        leave(monkeypatch, memory=RESOURCES.memory_mib * MIB * 3)
        boots = (node.sandboxes.boot(new_id("sbx"), request()) for _ in range(5))
        results = await asyncio.gather(*boots, return_exceptions=True)
        assert [type(each) for each in results if isinstance(each, Exception)] == [LimitReached] * 2
        assert len(host.kernels) == node.parts.registry.alive() == 3


async def test_who_goes_back_to_what_is_larger_than_it_is_now_needs_the_difference(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        entry = node.parts.registry.get(SANDBOX)
        figures = entry.record.figures.model_copy(update={"memory_bytes": 30 * MIB})
        entry.record = entry.record.but(figures=figures)
        monkeypatch.setattr(Need, "of", lambda *_: Need(memory=50 * MIB))
        leave(monkeypatch, memory=10 * MIB)
        with pytest.raises(LimitReached):
            await rollback(node)
        assert entry.running and host.kernels[SANDBOX].memory == 1
        leave(monkeypatch, memory=20 * MIB)
        await rollback(node)
        assert host.kernels[SANDBOX].memory == 0


def test_what_a_snapshot_needs() -> None:
    limits = RESOURCES.model_copy(update={"memory_mib": 100})
    assert Need.of(record(logical_bytes=90 * MIB), limits) == Need(90 * MIB, 0)
    assert Need.of(record(logical_bytes=900 * MIB), limits) == Need(100 * MIB, 0)
    assert Need.of(record(logical_bytes=90 * MIB, written_bytes=30 * MIB), limits) == Need(60 * MIB, 30 * MIB)
    disk = record(logical_bytes=90 * MIB, kind=SnapshotKind.DISK)
    assert Need.of(disk, limits) == Need(room._FRESH_MEMORY, 90 * MIB)
