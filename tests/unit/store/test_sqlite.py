"""SQLite in threads: one trip a statement or a transaction, all rows there when it is back, nothing left behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from hutch.store import audit
from hutch.store.engine import Database, Transaction

MAKE = text("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
ADD = text("INSERT INTO things (name) VALUES (:name)")
NAMES = text("SELECT name FROM things ORDER BY id")


@pytest.fixture
async def database(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path}/one.db")
    async with database.write() as connection:
        await connection.execute(MAKE)
    yield database
    await database.close()


@pytest.fixture
def trips(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was done in a thread."""
    made: list[str] = []

    def counting(threads: Executor) -> Callable[..., Any]:
        submit = threads.submit

        def count(work: Callable[..., Any], *arguments: Any) -> Any:
            made.append(work.__name__)
            return submit(work, *arguments)

        return count

    for threads in (database._file.readers, database._file.writer):
        monkeypatch.setattr(threads, "submit", counting(threads))
    return made


async def names(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(NAMES)).scalars())


async def test_rows_counts_and_ids(database: Database) -> None:
    async with database.write() as connection:
        assert (await connection.execute(ADD, {"name": "a"})).lastrowid == 1
        assert (await connection.execute(ADD, [{"name": "b"}, {"name": "c"}])).rowcount == 2
        again = text("INSERT INTO things (name) VALUES ('d') RETURNING id, name")
        assert (await connection.execute(again)).one()._asdict() == {"id": 4, "name": "d"}
        assert (await connection.execute(text("DELETE FROM things WHERE id > 2"))).rowcount == 2
    async with database.read() as connection:
        found = await connection.execute(NAMES)
        assert (found.keys(), found.fetchone(), found.fetchmany(5), found.fetchone()) == (
            ["name"],
            ("a",),
            [("b",)],
            None,
        )


async def test_rows_are_there_before_anybody_reads_them(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(ADD, [{"name": str(n)} for n in range(300)])
    async with database.read() as connection:
        found = await connection.execute(NAMES)
        async with database.write() as other:  # would be refused, or wait, if the rows were still being read
            await other.execute(text("DELETE FROM things"))
        await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        assert len(found.all()) == 300


async def test_each_statement_is_one_trip_and_so_is_a_whole_transaction(database: Database, trips: list[str]) -> None:
    await names(database)
    assert trips == ["read"]
    trips.clear()
    async with database.write() as connection:
        await connection.execute(ADD, {"name": "a"})
    assert trips == ["step", "commit"]
    trips.clear()

    async def work(connection: Transaction) -> str:
        await connection.execute(ADD, {"name": "b"})
        assert threading.current_thread() is not threading.main_thread()
        with pytest.raises(IntegrityError):
            await connection.execute(ADD, {"name": "b"})
        return audit.acting_now().actor

    with audit.acting("somebody"):
        assert await database.transact(work) == "somebody"
    assert trips == ["whole"]
    assert await names(database) == ["a", "b"]


async def test_what_fails_is_undone_and_the_next_begins_anew(database: Database) -> None:
    for broken, error in (
        (ADD, IntegrityError),
        (text("INSERT INTO nothing VALUES (1)"), OperationalError),
    ):

        async def work(connection: Transaction, broken: Any = broken) -> None:
            await connection.execute(ADD, {"name": "a"})
            await connection.execute(broken, {"name": "a"} if broken is ADD else None)

        with pytest.raises(error):
            async with database.write() as connection:
                await work(connection)
        with pytest.raises(error):
            await database.transact(work)
        assert await names(database) == []


def _add_and_fail(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO things (name) VALUES ('a')")
    raise RuntimeError("whatever")


async def test_plain_sqlite_is_in_the_same_transaction(database: Database) -> None:
    with pytest.raises(RuntimeError, match="whatever"):
        await database.write_at_once(_add_and_fail)
    assert await names(database) == []
    assert (await database.write_at_once(lambda plain: plain.execute("SELECT 1").fetchone())) == (1,)


async def test_a_transaction_in_one_trip_that_waits_is_undone(database: Database) -> None:
    async def work(connection: Transaction) -> None:
        await connection.execute(ADD, {"name": "a"})
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="nothing to wait for"):
        await database.transact(work)
    assert await names(database) == []


async def test_a_connection_whose_transaction_cannot_be_undone_is_not_used_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OperationalError("ROLLBACK", {}, Exception("the disk is gone"))

    with pytest.raises(OperationalError, match="the disk is gone"):
        async with database.write() as connection:
            await connection.execute(ADD, {"name": "a"})
            monkeypatch.setattr(database._file._writing, "rollback", broken)
            raise RuntimeError("whatever")
    async with database.write() as connection:
        await connection.execute(ADD, {"name": "b"})
    assert await names(database) == ["b"]
