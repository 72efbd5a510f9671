"""What goes in comes out, stored once, and goes away whole."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hutch.errors import AlreadyExists, NodeUnavailable, SnapshotCorrupt, SnapshotNotFound
from hutch.snapshots import SnapshotStore
from hutch.snapshots.ingest import Ingest
from tests.unit.snapshots.make import admit, content, frozen, memory, read, record, stored, tree


async def cold(store: SnapshotStore, id: str) -> None:
    """Wait until its plain files are gone."""
    async with asyncio.timeout(20):
        while store.is_hot(id):
            await asyncio.sleep(0.01)


async def test_a_snapshot_can_be_read_at_once(store: SnapshotStore) -> None:
    files = frozen(1)
    id = await admit(store, files)
    async with store.materialise(id) as directory:
        assert content(directory) == files


async def test_files_come_back_from_chunks_as_they_were(store: SnapshotStore, root: Path) -> None:
    odd = {"manifest.json": b"{}", "odd": memory([1, 2, 3])[:-1], "state": memory(list(range(500)))[:-7], "none": b""}
    for files in (frozen(1), odd):
        id = await stored(store, files)
        await cold(store, id)
        assert not (root / "hot" / id).exists()
        assert await read(store, id) == files


async def test_what_is_not_whole_any_more_is_not_stored_as_if_it_were(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Ingest.run

    def cut(self: Ingest, id: str, files: Path, *more: Any) -> None:
        os.truncate(files / "pages.img", (files / "pages.img").stat().st_size - 4096)
        run(self, id, files, *more)

    monkeypatch.setattr(Ingest, "run", cut)
    id = await admit(store, frozen(1))
    with pytest.raises(SnapshotCorrupt, match=id):
        await store.wait_stored(id)
    assert store.is_hot(id)
    assert not (await store.usage(None)).stored_bytes


async def test_zeros_take_no_space_neither_stored_nor_rebuilt(store: SnapshotStore) -> None:
    id = await stored(store, {"pages.img": bytes(64 << 20)})
    await cold(store, id)
    assert (await store.get(id)).stored_bytes == 0
    async with store.materialise(id) as directory:
        found = (directory / "pages.img").stat()
        assert (found.st_size, found.st_blocks) == (64 << 20, 0)


async def test_pages_that_moved_are_stored_once(store: SnapshotStore) -> None:
    first = await store.get(await stored(store, frozen(1, 1000)))
    second = await store.get(await stored(store, frozen(11, 1000)))
    assert first.stored_bytes is not None
    assert first.stored_bytes > 1000 * 4096
    assert second.stored_bytes is not None
    assert 10 * 4096 <= second.stored_bytes < 12 * 4096
    assert second.logical_bytes == sum(map(len, frozen(11, 1000).values()))


async def test_organisations_share_with_the_host_and_not_with_each_other(store: SnapshotStore) -> None:
    template = await store.get(await stored(store, frozen(1), record(org=None)))
    a = await store.get(await stored(store, frozen(101), record(org="org_a")))
    b = await store.get(await stored(store, frozen(101), record(org="org_b")))
    assert template.stored_bytes is not None
    assert template.stored_bytes > 300 * 4096
    assert a.stored_bytes == b.stored_bytes
    assert a.stored_bytes is not None
    assert 100 * 4096 <= a.stored_bytes < 101 * 4096  # the pages that the template does not have
    usage = await store.usage("org_a")
    assert (usage.snapshots, usage.logical_bytes, usage.stored_bytes) == (1, a.logical_bytes, a.stored_bytes)
    assert (await store.usage(None)).stored_bytes == template.stored_bytes
    assert (await store.usage("org_none")).stored_bytes == 0


async def test_what_nobody_needs_any_more_is_collected_and_the_rest_stays(store: SnapshotStore, root: Path) -> None:
    first, second = await stored(store, frozen(1)), await stored(store, frozen(200))
    before = sum((root / name).stat().st_size for name in tree(root) if name.startswith("packs/"))
    await store.delete(first)
    collected = await store.collect()
    assert collected.dropped_bytes > 0
    after = sum((root / name).stat().st_size for name in tree(root) if name.startswith("packs/"))
    assert after < before
    assert await read(store, second) == frozen(200)
    await store.delete(second)
    await store.collect()
    assert tree(root) == []
    assert (await store.usage("org_a")).stored_bytes == 0


async def test_many_small_packs_become_one(store: SnapshotStore, root: Path) -> None:
    ids = {await stored(store, frozen(n * 1000, 20)): frozen(n * 1000, 20) for n in range(20)}
    assert len(list((root / "packs").iterdir())) == 20
    await store.collect()
    assert len(list((root / "packs").iterdir())) == 1
    for id, files in ids.items():
        await cold(store, id)
        assert await read(store, id) == files


async def test_a_deleted_snapshot_is_gone_and_its_children_are_its_parents(store: SnapshotStore, root: Path) -> None:
    top, middle, below = record(1), record(2), record(3)
    middle = middle.model_copy(update={"parent": top.id})
    below = below.model_copy(update={"parent": middle.id})
    for one in (top, middle, below):
        await stored(store, frozen(5), one)
    await store.delete(middle.id)
    assert (await store.get(below.id)).parent == top.id
    assert [found.id for found in await store.records(sandbox="sbx_a")] == [top.id, below.id]
    for call in (store.get, store.delete, store.verify, store.wait_stored):
        with pytest.raises(SnapshotNotFound):
            await call(middle.id)
    with pytest.raises(SnapshotNotFound):
        await read(store, middle.id)
    assert not (root / "hot" / middle.id).exists()


async def test_who_reads_keeps_the_files_through_eviction_and_delete(store: SnapshotStore, root: Path) -> None:
    id = await stored(store, frozen(1))
    async with store.materialise(id) as directory:
        await stored(store, frozen(500))  # wakes the eviction
        await store.delete(id)
        await store.collect()
        assert content(directory) == frozen(1)
        with pytest.raises(AlreadyExists):
            await admit(store, frozen(2), record(id=id))
    assert not directory.exists()


async def test_the_cache_keeps_what_was_used_last(root: Path) -> None:
    store = await SnapshotStore.open(root, cache_bytes=3 * (1300 << 10), cpu_share=1)
    first, second, third = [await stored(store, frozen(n)) for n in (1, 1000, 2000)]
    await read(store, first)
    fourth = await stored(store, frozen(3000))
    await cold(store, second)
    assert [store.is_hot(id) for id in (first, third, fourth)] == [True, True, True]
    await store.close()


async def test_the_same_snapshot_twice_is_refused_and_the_directory_left(store: SnapshotStore) -> None:
    one = record()
    await admit(store, frozen(1), one)
    async with store.stage() as directory:
        (directory / "a").write_bytes(b"x")
        with pytest.raises(AlreadyExists):
            await store.admit(directory, one)
        assert (directory / "a").exists()


async def test_only_plain_files_are_taken(store: SnapshotStore) -> None:
    async with store.stage() as directory:
        for name in ("link", "a b", ".hidden", "new\nline", "end\n"):
            path = directory / name
            path.symlink_to("/etc/passwd") if name == "link" else path.touch()
            with pytest.raises(ValueError, match="plain file"):
                await store.admit(directory, record())
            path.unlink()


async def test_a_staged_directory_that_is_not_admitted_is_removed(store: SnapshotStore, root: Path) -> None:
    async with store.stage() as directory:
        (directory / "a").write_bytes(b"x")
    assert tree(root) == []


async def test_a_store_is_open_once(store: SnapshotStore, root: Path) -> None:
    with pytest.raises(RuntimeError, match="another process"):
        await SnapshotStore.open(root)


async def test_a_large_snapshot_on_its_way_does_not_hold_up_the_next_pause(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    ingest = Ingest.run

    def slow(self: Ingest, *arguments: Any) -> None:
        go_on.wait(30)
        ingest(self, *arguments)

    monkeypatch.setattr(Ingest, "run", slow)
    store = await SnapshotStore.open(root, cpu_share=1)
    first = await admit(store, frozen(1))
    await store.wait_durable(first)
    second = await admit(store, frozen(500))
    async with asyncio.timeout(20):
        await store.wait_durable(second)
    assert (await store.get(first)).stored_bytes is None
    go_on.set()
    await store.wait_stored(first)
    await store.wait_stored(second)
    await store.close()


async def test_who_waits_is_told_when_the_store_closes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SnapshotStore.open(root, cpu_share=0.001)
    id = await admit(store, frozen(1, 20_000))
    waiting = asyncio.create_task(store.wait_stored(id))
    await store.wait_durable(id)
    await store.close()
    with pytest.raises(NodeUnavailable):
        await waiting
    assert len(list((root / "tmp").iterdir())) == 0  # the pack that was begun


async def test_a_store_of_a_newer_hutch_is_left_alone(root: Path) -> None:
    await (await SnapshotStore.open(root)).close()
    with closing(sqlite3.connect(root / "index.db")) as db:
        db.execute("PRAGMA user_version = 99")
    for _ in range(2):  # the lock was given back too
        with pytest.raises(RuntimeError, match="newer Hutch"):
            await SnapshotStore.open(root)


async def test_many_at_once(store: SnapshotStore) -> None:
    ids = await asyncio.gather(*(stored(store, frozen(n * 50)) for n in range(20)))

    async def use(number: int, id: str) -> None:
        if number % 3 == 0:
            await store.delete(id)
            await store.collect()
        else:
            for _ in range(3):
                assert await read(store, id) == frozen(number * 50)

    await asyncio.gather(*(use(number, id) for number, id in enumerate(ids)))
    for number, id in enumerate(ids):
        if number % 3:
            await store.verify(id)
