"""Bytes that changed on the disk: told by name, and nobody else's trouble."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from hutch.errors import SnapshotCorrupt
from hutch.snapshots import SnapshotStore
from tests.unit.snapshots.inspect import consistent
from tests.unit.snapshots.make import frozen, memory, read, stored


async def two(root: Path) -> tuple[str, str, Path, Path]:
    """Two snapshots with nothing in common in a closed store, and the pack of each."""
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    first = await stored(store, frozen(1))
    (pack,) = (root / "packs").iterdir()
    second = await stored(store, {"pages.img": memory(list(range(5000, 5300)))})
    (other,) = set((root / "packs").iterdir()) - {pack}
    await store.close()
    return first, second, pack, other


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


async def damaged(store: SnapshotStore, id: str) -> SnapshotCorrupt:
    with pytest.raises(SnapshotCorrupt) as verified:
        await store.verify(id)
    with pytest.raises(SnapshotCorrupt) as caught:
        await read(store, id)
    assert caught.value.extra == verified.value.extra
    return caught.value


async def test_a_flipped_bit_anywhere_names_the_snapshot_and_the_file(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first, second, pack, _ = await two(root)
    chance = random.Random(1)
    for at in [0, pack.stat().st_size - 1, *(chance.randrange(pack.stat().st_size) for _ in range(20))]:
        flip(pack, at)
        store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
        error = await damaged(store, first)
        assert error.extra["snapshot"] == first
        assert error.extra["file"] in frozen(1)
        assert first in str(error)
        assert list((root / "tmp").iterdir()) == []
        await store.verify(second)
        await store.close()
        flip(pack, at)
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    assert await read(store, first) == frozen(1)
    await store.close()


@pytest.mark.parametrize("how", ["missing", "empty", "short", "swapped"])
async def test_a_pack_that_is_gone_or_cut_or_another_one(tmp_path: Path, how: str) -> None:
    root = tmp_path / "root"
    first, second, pack, other = await two(root)
    match how:
        case "missing":
            pack.unlink()
        case "empty":
            pack.write_bytes(b"")
        case "short":
            pack.write_bytes(pack.read_bytes()[:-10])
        case "swapped":
            pack.write_bytes(other.read_bytes())
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    assert (await damaged(store, first)).extra["snapshot"] == first
    await store.verify(second)
    await store.collect()
    await store.delete(first)
    await store.collect()
    assert await read(store, second) == {"pages.img": memory(list(range(5000, 5300)))}
    await store.close()
    consistent(root)


async def test_a_new_snapshot_does_not_build_on_what_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first, _, pack, _ = await two(root)
    flip(pack, pack.stat().st_size // 2)
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    await damaged(store, first)
    again = await stored(store, frozen(1))
    await store.verify(again)
    assert await read(store, again) == frozen(1)
    await store.close()


async def test_a_damaged_recipe_is_told_and_can_be_deleted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    first, second, _, _ = await two(root)
    with sqlite3.connect(root / "index.db") as db:
        (recipe,) = db.execute("SELECT recipe FROM snapshots WHERE id = ?", (first,)).fetchone()
        db.execute("UPDATE snapshots SET recipe = ? WHERE id = ?", (recipe[:-1] + b"x", first))
    db.close()
    store = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    assert (await damaged(store, first)).extra["snapshot"] == first
    await store.delete(first)
    await store.collect()
    await store.verify(second)
    await store.close()
    consistent(root)
    assert len(list((root / "packs").iterdir())) == 1


async def test_a_hot_copy_serves_while_its_chunks_are_damaged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = await SnapshotStore.open(root, cpu_share=1)
    id = await stored(store, frozen(1))
    (pack,) = (root / "packs").iterdir()
    flip(pack, 5)
    assert await read(store, id) == frozen(1)
    with pytest.raises(SnapshotCorrupt):
        await store.verify(id)
    await store.close()
