"""Rows, compare-and-set, leases and event streams on real databases, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from hutch.errors import DiskFull, InvalidRequest
from hutch.store import KeyRecord, Store
from hutch.store.engine import Database
from hutch.store.events import NewEvent
from hutch.store.idempotency import IdempotencyRow
from hutch.store.migrate import alembic_config
from hutch.store.pages import make_cursor
from hutch.store.readers import ReaderRow
from hutch.store.sandboxes import LIVE, SandboxRow
from hutch.store.tables import metadata
from hutch.store.tasks import LeaseLost, TaskRow
from hutch.store.uploads import UploadRow


async def add_sandbox(store: Store, number: int = 1, **values: object) -> SandboxRow:
    fields: dict[str, object] = {"org": "o", "state": "running", "created_at": 100.0 + number, "deadline": 1e12}
    row = SandboxRow(id=f"sbx_{number}", template="t", resources={}, network={}, **(fields | values))  # type: ignore[arg-type]
    async with store.database.write() as connection:
        await store.sandboxes.insert(connection, row)
    return row


async def add_task(store: Store, number: int = 1, **values: object) -> TaskRow:
    await add_sandbox(store, number)
    row = TaskRow(f"tsk_{number}", "o", f"sbx_{number}", "command", "p", 100.0 + number, **values)  # type: ignore[arg-type]
    async with store.database.write() as connection:
        await store.tasks.insert(connection, row, "the whole prompt")
        await store.readers.insert(connection, row.id)
    return row


def new(text: str) -> NewEvent:
    return NewEvent("output", {"text": text}, time.time())


async def append(store: Store, task_id: str, *texts: str) -> bool:
    async with store.database.write() as connection:
        return await store.events.append(connection, task_id, [new(text) for text in texts])


async def test_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    async with store.database.write() as connection:
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), metadata)
        )
    assert differences == []


async def test_an_older_database_keeps_its_rows(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    async with database.write() as connection:
        await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), "0001"))
        await connection.execute(
            text(
                "INSERT INTO sandboxes (id, org, state, version, template, resources, network, labels, created_at,"
                " deadline, breaches, usage)"
                " VALUES ('sbx_1', 'o', 'running', 3, 't', '{}', '{}', '{}', 1, 2, '[]', '{}')"
            )
        )
        await connection.execute(text("INSERT INTO labels VALUES ('sbx_1', 'k', 'v')"))
    await database.close()
    store = await Store.open(f"sqlite:///{tmp_path / 'a.db'}")
    (row,) = await store.sandboxes.page("o", wanted={"k": "v"})
    assert (row.version, row.snapshot, row.paused_at, row.idle_timeout) == (3, None, None, None)
    await store.close()


async def test_what_sleeps_is_overdue_and_abandoned_like_what_runs(store: Store) -> None:
    for number, state in enumerate(LIVE, 1):
        await add_sandbox(store, number, state=state, deadline=5.0)
    await add_sandbox(store, 99, state="stopping", deadline=5.0)
    assert {row.state for row in await store.sandboxes.overdue(6.0)} == set(LIVE)
    assert await store.sandboxes.overdue(4.0) == []


async def test_opening_a_database_again_keeps_what_is_in_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    first = await Store.open(url)
    await add_sandbox(first)
    await first.close()
    second = await Store.open(url)
    assert await second.sandboxes.get("sbx_1") is not None
    await second.close()


async def test_a_change_needs_the_version_that_was_read(store: Store) -> None:
    await add_sandbox(store)
    assert await store.sandboxes.change("sbx_1", 1, state="stopping")
    assert not await store.sandboxes.change("sbx_1", 1, state="running")
    row = await store.sandboxes.get("sbx_1")
    assert row is not None
    assert (row.state, row.version) == ("stopping", 2)


async def test_of_many_changes_at_once_one_wins(store: Store) -> None:
    await add_sandbox(store)
    won = await asyncio.gather(*(store.sandboxes.change("sbx_1", 1, reason=str(i)) for i in range(20)))
    assert sum(won) == 1


async def test_a_write_that_raises_leaves_nothing(store: Store) -> None:
    await add_task(store)
    with pytest.raises(RuntimeError):
        async with store.database.write() as connection:
            await store.events.append(connection, "tsk_1", [new("never")])
            raise RuntimeError
    assert await store.events.read("tsk_1", 1, 10) == []


async def test_pages_go_from_newest_to_oldest_without_gap_or_double(store: Store) -> None:
    for number in range(7):
        await add_sandbox(store, number, created_at=100.0 + number // 2)  # with equal times too
    seen: list[str] = []
    cursor = None
    while rows := await store.sandboxes.page("o", limit=2, cursor=cursor):
        seen += [row.id for row in rows]
        cursor = make_cursor(rows[-1].created_at, rows[-1].id)
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 7


@pytest.mark.parametrize("cursor", ["", "x", "%%%", "bm9wZQ", "bmFuOng", "MTIzOg"])
async def test_a_cursor_that_we_never_made_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await store.sandboxes.page("o", cursor=cursor)


async def test_lists_are_filtered_by_org_state_and_all_labels(store: Store) -> None:
    await add_sandbox(store, 1, labels={"team": "a", "env": "dev"})
    await add_sandbox(store, 2, labels={"team": "a", "env": "prod"})
    await add_sandbox(store, 3, labels={"team": "a"}, state="stopped")
    await add_sandbox(store, 4, org="other", labels={"team": "a"})
    both = await store.sandboxes.page("o", wanted={"team": "a", "env": "dev"})
    live = await store.sandboxes.page("o", ["running"], {"team": "a"})
    assert [row.id for row in both] == ["sbx_1"]
    assert [row.id for row in live] == ["sbx_2", "sbx_1"]


async def test_one_worker_holds_a_task_and_a_late_one_is_refused(store: Store) -> None:
    await add_task(store)
    first = await store.tasks.claim("tsk_1", "one", now=1000.0, lease=30)
    assert first is not None
    assert await store.tasks.claim("tsk_1", "two", now=1010.0, lease=30) is None
    second = await store.tasks.claim("tsk_1", "two", now=1031.0, lease=30)
    assert second is not None
    assert second.fence > first.fence
    with pytest.raises(LeaseLost):
        async with store.database.write() as connection:
            await store.events.append(connection, "tsk_1", [new("late")])
            await store.tasks.change(connection, "tsk_1", first.fence, step="end")
    with pytest.raises(LeaseLost):
        await store.tasks.renew("tsk_1", first.fence, 2000.0)
    assert await store.events.read("tsk_1", 1, 10) == []
    async with store.database.write() as connection:
        await store.tasks.check(connection, "tsk_1", second.fence)


async def test_a_released_or_broken_lease_is_free_at_once(store: Store) -> None:
    await add_task(store)
    first = await store.tasks.claim("tsk_1", "one", 1000.0, 30)
    assert first is not None
    await store.tasks.release("tsk_1", first.fence)
    assert await store.tasks.claim("tsk_1", "two", 1001.0, 30) is not None
    await store.tasks.break_leases()
    assert await store.tasks.claim("tsk_1", "three", 1002.0, 30) is not None


async def test_of_many_reasons_to_stop_the_first_stays(store: Store) -> None:
    await add_task(store)

    async def ask(reason: str) -> bool:
        async with store.database.write() as connection:
            return await store.tasks.ask_to_stop(connection, "tsk_1", {"state": reason})

    assert await ask("cancelled")
    assert not await ask("timed_out")
    task = await store.tasks.get("tsk_1")
    assert task is not None
    assert task.stop == {"state": "cancelled"}


async def test_many_writers_make_one_stream_without_gap(store: Store) -> None:
    await add_task(store)
    await asyncio.gather(*(append(store, "tsk_1", f"{i}.1", f"{i}.2") for i in range(25)))
    found = await store.events.read("tsk_1", 1, 1000)
    assert [event.offset for event in found] == list(range(1, 51))
    pairs = [(found[i].data["text"], found[i + 1].data["text"]) for i in range(0, 50, 2)]
    assert all(one.split(".")[0] == two.split(".")[0] for one, two in pairs)  # a batch stays together


async def test_nothing_follows_the_end_of_a_stream(store: Store) -> None:
    await add_task(store)
    assert await append(store, "tsk_1", "last")
    async with store.database.write() as connection:
        await store.tasks.note(connection, "tsk_1", ended_at=1.0)
    assert not await append(store, "tsk_1", "after the end")
    assert [event.data["text"] for event in await store.events.read("tsk_1", 1, 10)] == ["last"]


async def test_events_are_read_from_any_offset(store: Store) -> None:
    await add_task(store)
    await append(store, "tsk_1", *"abcdef")
    assert [event.data["text"] for event in await store.events.read("tsk_1", 3, 2)] == ["c", "d"]
    assert await store.events.read("tsk_1", 7, 2) == []


async def test_a_reader_keeps_bytes_and_state(store: Store) -> None:
    await add_task(store)
    row = ReaderRow("tsk_1", 77, {"stdout": 5}, b"\x00\xff", b"", {"text": "é\ud83d"}, {"exit_code": 1}, 9)
    async with store.database.write() as connection:
        await store.readers.put(connection, row)
    assert await store.readers.get("tsk_1") == row


async def test_an_idempotency_key_is_used_once_and_can_be_freed(store: Store) -> None:
    row = IdempotencyRow("key_1", "k", "h", "sbx_1", 1.0, 10.0)

    async def insert(entry: IdempotencyRow) -> None:
        async with store.database.write() as connection:
            await store.idempotency.insert(connection, entry)

    await insert(row)
    with pytest.raises(IntegrityError):
        await insert(row)
    await insert(IdempotencyRow("key_2", "k", "h", "sbx_2", 1.0, 10.0))
    await store.idempotency.answer("key_1", "k", {"id": "sbx_1"})
    found = await store.idempotency.get("key_1", "k")
    assert found is not None
    assert found.response == {"id": "sbx_1"}
    await store.idempotency.forget("key_1", "k", "sbx_1")
    await store.idempotency.sweep(now=10.0)
    assert await store.idempotency.get("key_1", "k") is None
    assert await store.idempotency.get("key_2", "k") is None


async def test_the_journal_cursor_moves_only_from_where_it_stands(store: Store) -> None:
    async def advance(before: int, after: int) -> bool:
        async with store.database.write() as connection:
            return await store.cursors.advance(connection, "n", before, after)

    assert await advance(0, 5)
    assert not await advance(0, 5)
    assert await advance(5, 9)
    assert await store.cursors.get("n") == 9
    assert await store.cursors.get("other") == 0


async def test_forgetting_a_sandbox_forgets_its_task_and_events(store: Store) -> None:
    await add_task(store)
    await append(store, "tsk_1", "x")
    await store.sandboxes.forget("sbx_1")
    assert await store.tasks.get("tsk_1") is None
    assert await store.events.read("tsk_1", 1, 10) == []


async def test_an_upload_counts_once_it_is_whole_and_until_it_expires(store: Store) -> None:
    await store.uploads.add(UploadRow("upl_1", "o", 0, 1.0, 100.0))
    assert await store.uploads.get("upl_1", "o", 2.0) is None
    await store.uploads.complete("upl_1", 5)
    found = await store.uploads.get("upl_1", "o", 2.0)
    assert found is not None
    assert found.size == 5
    assert await store.uploads.get("upl_1", "other", 2.0) is None
    assert await store.uploads.get("upl_1", "o", 100.0) is None
    assert [row.id for row in await store.uploads.expired(100.0)] == ["upl_1"]


async def test_keys_are_found_and_revoked_once(store: Store) -> None:
    await store.keys.add(KeyRecord("key_1", "o", "first", "hk_abc", "hash", 1.0))
    assert [key.prefix for key in await store.keys.of_org("o")] == ["hk_abc"]
    assert await store.keys.count() == 1
    await store.keys.touch("key_1", 5.0)
    assert await store.keys.revoke("key_1", 6.0)
    assert not await store.keys.revoke("key_1", 7.0)
    found = await store.keys.get("key_1")
    assert found is not None
    assert (found.last_used_at, found.revoked_at) == (5.0, 6.0)


async def test_writers_that_are_cancelled_anywhere_leave_no_lock_and_no_half(store: Store) -> None:
    await add_task(store)
    chance = random.Random(7)
    for _ in range(60):
        writers = [asyncio.create_task(append(store, "tsk_1", "a", "b", "c")) for _ in range(4)]
        readers = [asyncio.create_task(store.tasks.get("tsk_1")) for _ in range(4)]
        await asyncio.sleep(chance.random() * 0.01)
        for task in (*writers, *readers):
            task.cancel()
        await asyncio.gather(*writers, *readers, return_exceptions=True)
    async with asyncio.timeout(2):
        await append(store, "tsk_1", "a", "b", "c")
    found = await store.events.read("tsk_1", 1, 10_000)
    assert [event.offset for event in found] == list(range(1, len(found) + 1))
    assert [event.data["text"] for event in found] == ["a", "b", "c"] * (len(found) // 3)
    other = await Store.open(str(store.database.url))
    async with asyncio.timeout(2):
        await append(other, "tsk_1", "a")
    await other.close()


async def test_a_full_disk_is_told_as_such_and_nothing_is_written(store: Store) -> None:
    await add_task(store)
    if store.database.sqlite:
        async with store.database.write() as connection:
            pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
            await connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    with pytest.raises(DiskFull):
        async with store.database.write() as connection:
            await store.events.append(connection, "tsk_1", [new("first"), new("x" * 100_000)])
            if not store.database.sqlite:
                await connection.execute(text("DO $$ BEGIN RAISE disk_full; END $$"))
    assert await store.events.read("tsk_1", 1, 10) == []
    assert await append(store, "tsk_1", "small")
