"""A full disk: told as such, nothing half-made, and what is hot stays usable."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hutch.errors import DiskFull
from hutch.snapshots import Origin, SnapshotStore, background
from hutch.snapshots.disk import Disk
from tests.unit.snapshots.inspect import consistent, settle
from tests.unit.snapshots.make import NOON, admit, frozen, memory, read, record, stored, tree


class FullDisk(Disk):
    """Has room for so many more changes that take some."""

    def __init__(self) -> None:
        self.room = 10**9

    def _take(self) -> None:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= 1

    def create(self, path: Path) -> int:
        self._take()
        return super().create(path)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        self._take()
        super().write(descriptor, data[: len(data) // 2], offset)
        self._take()
        super().write(descriptor, data, offset)

    def sync(self, descriptor: int) -> None:
        self._take()
        super().sync(descriptor)


@pytest.fixture
def disk() -> FullDisk:
    return FullDisk()


@pytest.fixture
async def store(root: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SnapshotStore]:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.05)
    opened = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1, disk=disk)
    yield opened
    await opened.close()


async def test_a_full_disk_in_the_middle_of_storing(store: SnapshotStore, disk: FullDisk, root: Path) -> None:
    before = await stored(store, frozen(5000))
    for room in range(0, 24, 3):
        disk.room = room
        id = await admit(store, frozen(1))
        with pytest.raises(DiskFull):
            await store.wait_stored(id)
        assert store.is_hot(id)
        assert await read(store, id) == frozen(1)
        await store.delete(id)
        disk.room = 10**9
        await store.collect()
        assert len([name for name in tree(root) if name.startswith("packs/")]) == 1
    await store.verify(before)
    disk.room = 10  # before the snapshot is there: the background begins with it at once
    last = await admit(store, frozen(1))
    with pytest.raises(DiskFull):
        await store.wait_stored(last)
    disk.room = 10**9
    await settle(store)  # it is tried again by itself
    await store.verify(last)


async def test_one_that_is_stored_while_its_sync_fails_is_done(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two halves go side by side: the failure of one must not have the other done again, or never ended."""
    work, fails = store._background, asyncio.Event()
    ingest, sync, loop = work._ingest, work._sync, asyncio.get_running_loop()
    once = iter([DiskFull("full")])

    def fail_once(ids: list[str]) -> None:
        for error in once:
            raise error
        sync(ids)

    def ingest_after_the_failure(id: str) -> None:
        asyncio.run_coroutine_threadsafe(fails.wait(), loop).result()
        ingest(id)

    failed = work.queue.failed

    def told(*arguments: Any) -> None:
        failed(*arguments)
        fails.set()

    monkeypatch.setattr(work, "_sync", fail_once)
    monkeypatch.setattr(work, "_ingest", ingest_after_the_failure)
    monkeypatch.setattr(work.queue, "failed", told)
    id = await admit(store, frozen(1))
    async with asyncio.timeout(10):
        await fails.wait()
        await store.wait_stored(id)
        while store.is_hot(id):  # known to be stored, and so free to go
            await asyncio.sleep(0.01)
    await store.verify(id)


async def test_a_full_disk_while_files_are_put_together(store: SnapshotStore, disk: FullDisk, root: Path) -> None:
    id = await stored(store, frozen(1))
    while store.is_hot(id):
        await store.collect()
    for room in range(0, 12, 2):
        disk.room = room
        with pytest.raises(DiskFull):
            await read(store, id)
        assert list((root / "tmp").iterdir()) == []
    disk.room = 10**9
    assert await read(store, id) == frozen(1)


async def test_a_full_disk_while_packs_are_rewritten(store: SnapshotStore, disk: FullDisk, root: Path) -> None:
    first, second = await stored(store, frozen(1, 500)), await stored(store, frozen(400, 500))
    await store.delete(first)
    for room in range(0, 6):
        disk.room = room
        with pytest.raises(DiskFull):
            await store.collect()
    disk.room = 10**9
    await store.collect()
    await store.verify(second)


async def test_a_full_disk_while_one_is_imported(store: SnapshotStore, disk: FullDisk, root: Path) -> None:
    id = await stored(store, {"pages.img": memory(list(range(2000)))})
    archive = [part async for part in store.export(id)]
    disk.room = 3

    async def stream() -> AsyncIterator[bytes]:
        for part in archive:
            yield part

    with pytest.raises(DiskFull):
        await store.import_archive(stream(), Origin("org_a", "sbx_a", None, NOON), 1 << 30)
    disk.room = 10**9
    assert [one.id for one in await store.records()] == [id]


async def test_a_full_index_leaves_the_frozen_directory_with_the_caller(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(store._parts.catalog, "insert", full)
        async with store.stage() as directory:
            (directory / "a").write_bytes(b"x")
            one = record()
            with pytest.raises(DiskFull):
                await store.admit(directory, one)
            assert (directory / "a").read_bytes() == b"x"
    assert await store.records() == []
    await admit(store, frozen(1), one)


async def test_the_next_process_finishes_what_had_no_room(root: Path, disk: FullDisk) -> None:
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1, disk=disk)
    disk.room = 15
    id = await admit(store, frozen(1))
    with pytest.raises(DiskFull):
        await store.wait_stored(id)
    await store.close()
    again = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    await settle(again)
    assert await read(again, id) == frozen(1)
    await again.close()
    consistent(root)
