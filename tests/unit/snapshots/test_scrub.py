"""Bits that change on the disk, in plain files and in chunks: found before they are used, and by looking for them."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from hutch.errors import SnapshotCorrupt
from hutch.snapshots import SnapshotStore, checksums, hot, scrub
from hutch.snapshots.zstd import Damaged
from tests.unit.snapshots.inspect import consistent
from tests.unit.snapshots.make import Files, admit, frozen, memory, read, stored
from tests.unit.snapshots.test_damage import flip

FAST = 1e12
LARGE: Files = {"pages.img": memory(list(range(1, 300)) * 3), "checkpoint.img": b"kernel objects" * 50}


async def opened(root: Path, rate: float = 0) -> SnapshotStore:
    return await SnapshotStore.open(root, cpu_share=1, scrub_rate=rate)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def round_over(root: Path) -> bool:
    with sqlite3.connect(root / "index.db") as db:
        row = db.execute("SELECT over FROM scrub").fetchone()
    db.close()
    return row == (1,)


async def one(root: Path, files: Files = LARGE) -> tuple[str, Path]:
    """A snapshot in a closed store, and its plain files."""
    store = await opened(root)
    id = await stored(store, files)
    await store.close()
    return id, root / "hot" / id


@pytest.mark.parametrize("at", [0, 1 << 20, 900 * 4096])
async def test_a_flipped_bit_in_a_plain_file_is_made_good_before_it_is_used(root: Path, at: int) -> None:
    id, directory = await one(root, {**LARGE, "pages.img": bytes(8192) + LARGE["pages.img"] + memory([7] * 9)})
    expected = (directory / "pages.img").read_bytes()
    flip(directory / "pages.img", at)
    store = await opened(root)
    assert (await read(store, id))["pages.img"] == expected
    await store.close()
    consistent(root)


@pytest.mark.parametrize("how", ["cut", "longer", "gone", "hole"])
async def test_a_plain_file_of_another_shape_is_made_good(root: Path, how: str) -> None:
    id, directory = await one(root)
    file = directory / "pages.img"
    match how:
        case "cut":
            os.truncate(file, file.stat().st_size - 4096)
        case "longer":
            os.truncate(file, file.stat().st_size + (1 << 20))
        case "gone":
            file.unlink()
        case "hole":
            os.truncate(file, 0)
            os.truncate(file, len(LARGE["pages.img"]))
    store = await opened(root)
    assert await read(store, id) == LARGE
    await store.close()


async def test_where_chunks_are_damaged_too_the_snapshot_is_named_and_others_are_not_affected(root: Path) -> None:
    first, directory = await one(root)
    (pack,) = (root / "packs").iterdir()
    store = await opened(root)
    second = await stored(store, {"pages.img": memory(list(range(5000, 5300)))})
    await store.close()
    flip(directory / "pages.img", 5)
    flip(pack, 5)
    store = await opened(root)
    for _ in range(2):
        with pytest.raises(SnapshotCorrupt, match=first):
            await read(store, first)
    await read(store, second)
    await store.close()


async def test_what_was_checked_lately_is_used_at_once_and_what_a_reader_has_open_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id, directory = await one(root)
    store = await opened(root)
    async with store.materialise(id):
        with (directory / "pages.img").open("rb") as open_before:
            flip(directory / "pages.img", 5)
            assert (await read(store, id))["pages.img"] != LARGE["pages.img"]  # trusted: it was checked a moment ago
            monkeypatch.setattr(hot, "TRUSTED_SECONDS", 0.0)
            assert (await read(store, id)) == LARGE
            assert len(open_before.read()) == len(LARGE["pages.img"])
    await store.close()


async def test_a_snapshot_that_is_not_stored_yet_can_be_used(store: SnapshotStore) -> None:
    id = await admit(store, frozen(1))
    assert await read(store, id) == frozen(1)


async def test_looking_finds_damage_in_plain_files(root: Path) -> None:
    id, directory = await one(root)
    flip(directory / "pages.img", 5)
    store = await opened(root, FAST)
    await until(lambda: round_over(root))
    assert (directory / "pages.img").read_bytes() == LARGE["pages.img"]
    assert await store.damaged() == []
    assert await read(store, id) == LARGE
    await store.close()
    consistent(root)


async def test_looking_finds_damage_in_chunks_and_stores_them_again(root: Path) -> None:
    id, _ = await one(root)
    (pack,) = (root / "packs").iterdir()
    flip(pack, 5)
    store = await opened(root, FAST)
    await until(lambda: round_over(root))
    await store.wait_stored(id)
    await store.verify(id)
    assert await store.damaged() == []
    await store.close()
    store = await SnapshotStore.open(root, cpu_share=1, cache_bytes=0)  # from chunks alone
    await until(lambda: not any((root / "hot").iterdir()))
    assert await read(store, id) == LARGE
    await store.close()
    consistent(root)


async def test_damage_that_cannot_be_made_good_is_told_until_it_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, directory = await one(root)
    (pack,) = (root / "packs").iterdir()
    flip(pack, 5)
    flip(directory / "pages.img", 5)
    store = await opened(root, FAST)
    second = await stored(store, {"pages.img": memory(list(range(5000, 5300)))})
    await until(lambda: round_over(root))
    assert await store.damaged() == [first]
    await store.close()
    flip(pack, 5)
    monkeypatch.setattr(scrub, "ROUND_SECONDS", 0.0)
    store = await opened(root, FAST)
    assert await store.damaged() == [first]  # it is written down
    async with asyncio.timeout(30):
        while await store.damaged():
            await asyncio.sleep(0.01)
    assert await read(store, first) == LARGE
    await read(store, second)
    await store.close()


async def test_it_goes_on_where_it_was_and_begins_no_second_round(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(root)
    ids = sorted([await stored(store, frozen(number)) for number in (1, 2000, 4000)])
    await store.close()
    looked: list[str] = []
    find = scrub.Scrub._find_damage

    def noting(self: scrub.Scrub, id: str) -> str | None:
        looked.append(id)
        return find(self, id)

    monkeypatch.setattr(scrub.Scrub, "_find_damage", noting)
    size = sum(map(len, frozen(1).values()))
    store = await opened(root, size * 2)  # half a second each
    await until(lambda: len(looked) == 2)
    await store.close()
    store = await opened(root, FAST)
    await until(lambda: round_over(root))
    assert looked == [*ids[:2], *ids[1:]]  # the second was not done
    await store.close()
    store = await opened(root, FAST)
    await asyncio.sleep(0.05)
    assert len(looked) == 4
    await store.close()


async def test_plain_files_from_before_checksums_are_made_again(root: Path) -> None:
    id, directory = await one(root)
    with sqlite3.connect(root / "index.db") as db:
        db.execute("DELETE FROM checksums")
    db.close()
    flip(directory / "pages.img", 5)
    store = await opened(root, FAST)
    await until(lambda: round_over(root))
    assert await read(store, id) == LARGE
    await store.close()
    with sqlite3.connect(root / "index.db") as db:
        assert {name for (name,) in db.execute("SELECT file FROM checksums")} == set(LARGE)
    db.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_every_block_belongs_to_one_piece(tmp_path: Path, threads: int) -> None:
    (tmp_path / "large").write_bytes(os.urandom(100 << 10) * 1000)
    (tmp_path / "empty").touch()
    sums = checksums.of_files(tmp_path)
    found = checksums.pieces(tmp_path, sums, threads)
    assert len(found) == threads + 1
    for piece in found:
        checksums.check(piece)
        checksums.check(piece, direct=True)
    for at in range(0, 97 << 20, 7 << 20):
        flip(tmp_path / "large", at)
        with pytest.raises(Damaged):
            for piece in found:
                checksums.check(piece)
        flip(tmp_path / "large", at)


async def test_what_is_no_damage_is_not_taken_for_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that reads nothing past the page cache; and a process with too many open files."""
    id, directory = await one(root)
    tried, preadv = [0], os.preadv

    def refusing(descriptor: int, *rest: Any) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            tried[0] += 1
            raise OSError(errno.EINVAL, "")
        return preadv(descriptor, *rest)

    monkeypatch.setattr(os, "preadv", refusing)
    inode = (directory / "pages.img").stat().st_ino
    store = await opened(root, FAST)
    await until(lambda: round_over(root))
    assert tried[0] and (directory / "pages.img").stat().st_ino == inode and await read(store, id) == LARGE
    await store.close()

    def short_of_files(*_: Any) -> int:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(checksums, "_open", short_of_files)
    store = await opened(root)
    with pytest.raises(OSError, match="24"):
        await read(store, id)
    await store.close()


async def test_a_store_with_nothing_in_it_is_looked_through_once(root: Path) -> None:
    store = await opened(root, FAST)
    with capture_logs() as logs:
        await until(lambda: round_over(root))
        await asyncio.sleep(0.2)
    assert len([line for line in logs if line["event"].startswith("looked through")]) <= 1
    await store.close()
