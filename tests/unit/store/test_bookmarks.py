"""The places of tasks at snapshots."""

from __future__ import annotations

import pytest
from tests.unit.store.test_store import add_task

from hutch.store import Store
from hutch.store import bookmarks as module
from hutch.store.bookmarks import Bookmark
from hutch.store.readers import ReaderRow


def place(number: int, reason: str = "checkpoint", task: str = "tsk_1", **reader: object) -> Bookmark:
    row = ReaderRow(task, guest_offset=number, stdout=b"\xff half", **reader)  # type: ignore[arg-type]
    return Bookmark(f"snp_{reason}_{number}", task, reason, float(number), number, {"step": "agent", "stop": None}, row)


async def put(store: Store, *rows: Bookmark) -> None:
    for row in rows:
        async with store.database.write() as connection:
            await store.bookmarks.put(connection, row)


async def test_what_is_written_down_is_found(store: Store) -> None:
    await add_task(store, 1)
    row = place(7, outcome={"text": "é"}, exit={"running": False}, lines={"stdout": 3})
    await put(store, row)
    assert await store.bookmarks.get(row.snapshot) == row
    async with store.database.write() as connection:
        assert await store.bookmarks.lock(connection, row.snapshot) == row
    assert await store.bookmarks.get("snp_other") is None
    again = Bookmark(row.snapshot, "tsk_1", "checkpoint", 8.0, 8, {}, ReaderRow("tsk_1"))
    await put(store, again)
    assert await store.bookmarks.get(row.snapshot) == again


async def test_old_ones_are_forgotten_by_reason_and_task(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    for task in (1, 2):
        await add_task(store, task)
    await put(store, *(place(number) for number in range(6)), *(place(number, "manual") for number in range(6)))
    await put(store, place(10, "pause"), place(11, "fork", "tsk_2"))
    assert await store.bookmarks.turns("tsk_1", "checkpoint") == {f"snp_checkpoint_{n}": n for n in (3, 4, 5)}
    assert len(await store.bookmarks.turns("tsk_1", "manual")) == 6, "they may have a name, and are kept then"
    assert await store.bookmarks.turns("tsk_1", "pause") == {"snp_pause_10": 10}
    assert await store.bookmarks.turns("tsk_1", "fork") == {}


async def test_they_go_with_the_sandbox(store: Store) -> None:
    await add_task(store, 1)
    await put(store, place(1))
    await store.sandboxes.forget("sbx_1")
    assert await store.bookmarks.get("snp_checkpoint_1") is None
