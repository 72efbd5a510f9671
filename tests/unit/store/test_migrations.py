"""A database of an earlier version, with something in it, is brought up to date and says the same as before."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alembic import command
from sqlalchemy import MetaData, Table, text

from hutch.store import Store
from hutch.store.engine import Database, Transaction
from hutch.store.migrate import alembic_config, migrate
from hutch.store.readers import ReaderRow
from hutch.store.sandboxes import SandboxRow
from hutch.store.tasks import TaskRow

_COMMON: dict[str, Any] = {
    "org": "o",
    "template": "claude-code",
    "resources": {"cpus": 1},
    "network": {"mode": "deny_all"},
    "deadline": 1e12,
    "version": 5,
    "node": "local",
    "labels": {"k": "v"},
    "guest_token": "token",
    "idle_timeout": 60.0,
    "usage": {"running_seconds": 3.5},
}
RUNNING = SandboxRow(id="sbx_running", state="running", created_at=1.0, last_active=2.0, **_COMMON)
PAUSED = SandboxRow(id="sbx_paused", state="paused", created_at=2.0, snapshot="snp_1", paused_at=4.0, **_COMMON)
TASK = TaskRow(
    "tsk_1",
    "o",
    RUNNING.id,
    "claude-code",
    "Do it",
    3.0,
    state="running",
    step="run",
    fence=2,
    budget={"llm_usd": 1},
    usage={"llm": {"requests": 4}},
    output_globs=["*.md"],
    sealed_llm_key=b"sealed",
    exec_id="exe_1",
    started_at=4.0,
    last_offset=1,
)
READER = ReaderRow(TASK.id, guest_offset=17, lines={"stdout": {}}, stdout=b"half a li", outcome={"turns": 1})
EVENT: dict[str, Any] = {"task_id": TASK.id, "offset": 1, "time": 5.0, "type": "output", "data": {"text": "hello"}}


async def fill(connection: Transaction, revision: str) -> set[str]:
    """Make the tables of that revision, with these rows as far as it had their columns. Columns that it had not."""
    await connection.run_sync(lambda sync: command.upgrade(alembic_config(sync), revision))
    known = MetaData()
    await connection.run_sync(known.reflect)
    missing: set[str] = set()

    async def insert(table: Table, values: dict[str, Any]) -> None:
        had = set(table.columns.keys())
        missing.update(values.keys() - had)
        await connection.execute(table.insert().values({name: values[name] for name in had}))

    for box in (RUNNING, PAUSED):
        await insert(known.tables["sandboxes"], asdict(box))
        await insert(known.tables["labels"], {"sandbox_id": box.id, "key": "k", "value": "v"})
    await insert(known.tables["tasks"], asdict(TASK))
    await insert(known.tables["prompts"], {"task_id": TASK.id, "text": "Do it, all of it"})
    await insert(known.tables["readers"], asdict(READER))
    await insert(known.tables["events"], EVENT)
    return missing


async def test_what_ran_and_what_was_paused_with_their_task_live_through_all_migrations(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    database = Database(url)
    async with database.write() as connection:
        missing = await fill(connection, "0002")
    await database.close()
    assert {"hibernated", "resumed", "fallback", "start", "checkpoints", "turn", "rewind"} <= missing

    store = await Store.open(url)
    try:
        assert await store.sandboxes.page("o", wanted={"k": "v"}) == [PAUSED, RUNNING]
        assert await store.sandboxes.page("o", hibernated=False) == [PAUSED, RUNNING]
        assert await store.sandboxes.page("o", ["paused"], hibernated=True) == []
        assert await store.sandboxes.may_idle() == [RUNNING]
        assert await store.sandboxes.paused_since([RUNNING.id, PAUSED.id]) == {PAUSED.id: 4.0}
        assert await store.tasks.get(TASK.id) == TASK
        assert await store.tasks.of_sandboxes([RUNNING.id, PAUSED.id]) == {RUNNING.id: TASK}
        assert await store.tasks.prompt(TASK.id) == "Do it, all of it"
        assert await store.readers.get(TASK.id) == READER
        (event,) = await store.events.read(TASK.id, 1, 10)
        assert (event.offset, event.type, event.data) == (1, "output", {"text": "hello"})
        assert await store.sandboxes.change(PAUSED.id, PAUSED.version, state="resuming")
    finally:
        await store.close()


async def schema(database: Database) -> list[Any]:
    """All tables, indexes and triggers, as SQLite was told them, and the revision that they have."""
    async with database.read() as connection:
        made = (await connection.execute(text("SELECT type, name, tbl_name, sql FROM sqlite_master"))).all()
    async with database.read() as connection:
        version = (await connection.execute(text("SELECT * FROM alembic_version"))).all()
    return [*sorted(made, key=str), *version]


async def test_a_new_database_is_as_all_migrations_make_it(tmp_path: Path) -> None:
    """If it is not: `scripts/export_schema.py` writes anew what new ones are made from."""
    migrated = Database(f"sqlite:///{tmp_path / 'a.db'}")
    async with migrated.write() as connection:
        await connection.run_sync(migrate)
    store = await Store.open(f"sqlite:///{tmp_path / 'b.db'}")
    try:
        assert await schema(store.database) == await schema(migrated)
    finally:
        await store.close()
        await migrated.close()


def test_neither_a_new_database_nor_one_that_is_up_to_date_needs_alembic(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from hutch.store import Store
async def open():
    await (await Store.open("sqlite:///{tmp_path}/a.db")).close()
asyncio.run(open())
asyncio.run(open())
assert "alembic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
