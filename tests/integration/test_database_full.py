"""The server's database on a disk of which no byte is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.store import KeyRecord, Store
from hutch.store.engine import DatabaseFull


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", tmp_path], check=True)
    try:
        store = await Store.open(f"sqlite+aiosqlite:///{tmp_path}/hutch.db")
        try:
            yield store
        finally:
            await store.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def fill(directory: Path) -> None:
    with (directory / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.fsync(file.fileno())


async def write(store: Store, first: int, times: int) -> None:
    for number in range(first, first + times):
        await store.keys.add(KeyRecord(f"key_{number}", "org_default", "x" * 20_000, "hk_", f"hash{number}", 1.0))


async def test_there_is_room_for_some_calls_on_a_full_disk(store: Store, tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(DatabaseFull):
        await write(store, 0, 100)
    with pytest.raises(DatabaseFull):
        await store.database.keep_room()  # too late
    (tmp_path / "filler").unlink()

    for _ in range(2):  # what was used up is made anew
        await store.database.keep_room()
        await store.database.keep_room()
        fill(tmp_path)
        taken = await store.keys.count()
        await write(store, taken, 60)
        (tmp_path / "filler").unlink()
    assert (tmp_path / "hutch.db").stat().st_size < 10 << 20

    fill(tmp_path)
    with pytest.raises(DatabaseFull):
        await write(store, 1000, 1000)
