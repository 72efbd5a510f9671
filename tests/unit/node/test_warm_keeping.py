"""What the warm pool holds: filled while nobody waits, drained when the host needs the room; and what a build says."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.unit.node.machine import RESOURCES, Daemon, Host, daemon
from tests.unit.node.test_warm_killed import assert_whole, fill, freeze, request

from hutch.errors import BootFailed, DiskFull, HutchError, LimitReached, TemplateBuildFailed
from hutch.images.events import Done, Log
from hutch.model import new_id
from hutch.node import keeping, room
from hutch.node.builds import Builds
from hutch.node.entry import Entry
from hutch.node.home import disk_free

GIB = 1 << 30


@pytest.fixture
async def node(memory: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Daemon]:
    """A frozen template, and a host with memory to spare."""
    has_memory(monkeypatch, 64 * GIB)
    async with daemon(Host(memory), warm=True) as node:
        await freeze(node)
        yield node


def has_memory(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    """What the host says that it can still give."""
    for module in (keeping, room):
        monkeypatch.setattr(module, "memory_available", lambda: available)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The keeper does at once what it would do soon."""
    for name in ("_AFTER_DEMAND", "_SOON"):
        monkeypatch.setattr(keeping, name, 0.001)
    return


async def until(condition: Any, within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def create(node: Daemon) -> str:
    id = new_id("sbx")
    await node.sandboxes.boot(id, request())
    return id


async def round_of(node: Daemon) -> None:
    """One look of the keeper's at everything, without its pauses."""
    keeper = node.sandboxes._keeper
    keeper._aim()
    keeper._drain()
    keeper._rest_until = 0.0
    await keeper._fill()
    await asyncio.gather(*node.sandboxes.pool._ends)


async def test_the_pool_follows_demand(node: Daemon, no_pauses: None) -> None:
    pool = node.sandboxes.pool
    pool.limit = GIB
    await round_of(node)
    assert len(pool) == 0
    ids = [await create(node) for _ in range(2)]
    for _ in range(4):
        await round_of(node)
    assert (len(pool), pool.shelves["t"].target) == (2, 2)
    for id in ids:
        await node.sandboxes.destroy(id)
    pool.shelves["t"].demand._times.clear()
    await round_of(node)
    assert len(pool) == 0
    await assert_whole(node)


async def test_nothing_is_thawed_while_somebody_waits(
    node: Daemon, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    node.sandboxes.pool.limit = GIB
    id = await create(node)
    entry = node.parts.registry.get(id)
    entry.record = entry.record.but(step="booting")
    await round_of(node)
    assert len(node.sandboxes.pool) == 0
    entry.record = entry.record.but(step="running")
    await round_of(node)
    assert len(node.sandboxes.pool) == 1


async def test_the_pool_takes_no_more_memory_than_it_may(node: Daemon, no_pauses: None) -> None:
    pool = node.sandboxes.pool
    pool.limit = GIB
    for _ in range(4):
        await create(node)
    shelf = pool.shelves["t"]
    for each, target in ((1, 1), (GIB // 2 + 1, 1), (GIB + 1, 0)):
        shelf.bytes_each = each
        node.sandboxes._keeper._aim()
        assert shelf.target == target  # of the five that this node takes, four run


async def test_a_pool_without_memory_is_off(node: Daemon) -> None:
    await create(node)
    await node.sandboxes.start()
    assert not node.sandboxes.pool.shelves and node.sandboxes._keeper._task is None


async def test_the_pool_gives_way_when_memory_is_short(
    node: Daemon, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = node.sandboxes.pool
    pool.limit = GIB
    await create(node)
    await round_of(node)
    assert len(pool) == 1
    has_memory(monkeypatch, 64 << 20)
    await round_of(node)
    assert len(pool) == 0
    await assert_whole(node)
    with pytest.raises(LimitReached, match="memory"):
        await create(node)


async def test_what_the_pool_gives_back_is_no_reason_to_refuse_a_create(
    node: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(node)
    member = next(iter(node.sandboxes.pool))
    member.memory = GIB
    node.sandboxes.pool._count()
    has_memory(monkeypatch, 64 << 20)
    await create(node)


async def test_sandboxes_come_before_those_that_are_nobodys(node: Daemon, no_pauses: None) -> None:
    """The node of these tests takes five."""
    pool = node.sandboxes.pool
    pool.limit = GIB
    for _ in range(2):
        await fill(node)
    for _ in range(4):
        await node.sandboxes.boot(new_id("sbx"), request(resources={**request().resources.model_dump(), "pids": 32}))
    await round_of(node)
    assert len(pool) <= 1
    await create(node)
    await round_of(node)
    assert len(pool) == 0
    with pytest.raises(LimitReached):
        await create(node)
    await assert_whole(node)


async def test_a_thaw_that_fails_is_not_tried_again_at_once(node: Daemon, no_pauses: None) -> None:
    pool, host = node.sandboxes.pool, node.host
    pool.limit = GIB
    await create(node)
    host.fail, host.wrong = "thaw", HutchError("wrong")
    await round_of(node)
    assert len(pool) == 0 and pool.shelves["t"].not_before > time.monotonic() + 1
    await round_of(node)
    assert len(pool) == 0
    await assert_whole(node)


async def test_the_keeper_fills_by_itself_and_removes_all_when_it_stops(node: Daemon, no_pauses: None) -> None:
    node.sandboxes.pool.limit = GIB
    await node.sandboxes.start()
    await create(node)
    await until(lambda: len(node.sandboxes.pool) == 1)
    await create(node)
    await node.sandboxes.stop()
    assert len(node.sandboxes.pool) == 0
    await assert_whole(node)


# --- builds ----------------------------------------------------------------------------------------------------------


class Images:
    """What is built already."""

    def __init__(self, node: Daemon) -> None:
        self._images = node.parts.images

    async def build(self, name: str, *, force: bool) -> AsyncIterator[Log | Done]:
        yield Log(line="built")
        yield Done(template=self.info(name))

    def info(self, name: str) -> Any:
        return self._images.templates()[0]

    def resolve(self, name: str) -> Any:
        return self._images.resolve(name)


def builds(node: Daemon) -> Builds:
    images: Any = Images(node)
    return Builds(images, node.sandboxes.templates, node.sandboxes.pool, snapshots=True)


async def test_a_build_ends_with_a_snapshot_and_is_quick_when_there_is_one(node: Daemon) -> None:
    for force, frozen in ((False, 0), (True, 1)):
        node.host.steps.clear()
        *_, done = [event async for event in builds(node)._build("t", force)]
        assert isinstance(done, Done) and done.template.snapshot and done.note is None
        assert node.host.steps.count("freeze") == frozen
    assert len(await node.parts.snapshots.records()) == 1


async def test_a_build_without_room_for_the_snapshot_succeeds_and_says_so(
    node: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "disk_free", lambda path: min(disk_free(path), 1 << 20))
    *_, done = [event async for event in builds(node)._build("t", True)]
    assert isinstance(done, Done) and done.note is not None and "disk is full" in done.note
    node.host.fail, node.host.wrong = "admit", DiskFull("the disk is full")
    monkeypatch.undo()
    *_, done = [event async for event in builds(node)._build("t", True)]
    assert isinstance(done, Done) and done.note is not None and "disk is full" in done.note
    await assert_whole(node)


async def test_a_template_that_does_not_start_is_a_build_that_failed(node: Daemon) -> None:
    node.host.fail, node.host.wrong = "prepare", BootFailed("resident process 'x' ended", log="no database")
    with pytest.raises(TemplateBuildFailed, match="resident process 'x' ended") as caught:
        [event async for event in builds(node)._build("t", True)]
    assert caught.value.extra["log"] == "no database"
    await assert_whole(node)


async def test_filling_takes_half_a_core_and_rests_as_long_as_it_took(
    node: Daemon, no_pauses: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, keeper = node.sandboxes.pool, node.sandboxes._keeper
    pool.limit = GIB
    for _ in range(3):
        await create(node)
    cores, ahead = list[float](), keeper._thawer.ahead

    async def slowly(entry: Entry, *how: Any) -> Any:
        found = await ahead(entry, *how)
        cores.append(node.host.kernels[entry.record.runtime_id].cpus)
        await asyncio.sleep(0.2)
        return found

    monkeypatch.setattr(keeper._thawer, "ahead", slowly)
    keeper._aim()
    began = time.monotonic()
    while not len(pool):
        await keeper._fill()
    took = time.monotonic() - began
    assert 0.15 <= keeper._rest_until - time.monotonic() <= took
    assert cores == [0.5]
    (member,) = pool
    assert node.host.kernels[member.entry.record.runtime_id].cpus == RESOURCES.cpus
    for _ in range(3):
        assert await keeper._fill() > 0.1
    assert len(pool) == 1
    monkeypatch.setattr(keeper, "_rest_until", time.monotonic())
    await keeper._fill()
    assert len(pool) == 2


async def test_what_nobody_asks_for_any_more_is_forgotten(node: Daemon, no_pauses: None) -> None:
    pool, templates = node.sandboxes.pool, node.sandboxes.templates
    pool.limit = GIB
    await create(node)
    await round_of(node)
    pool.shelves["t"].demand._times.clear()
    await round_of(node)
    await round_of(node)
    assert pool.shelves == {}
    templates._troubles = {"hash": (0.0, "it did"), "gone": (0.0, "it did")}
    templates._failures = {"snp_gone": 1}
    await templates.tidy()
    assert (list(templates._troubles), templates._failures) == (["hash"], {})
    await create(node)
    await round_of(node)
    assert len(pool) == 1
