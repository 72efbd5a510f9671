"""The driver that runs a statement in one trip gives what SQLAlchemy asks for, and leaves no transaction behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError

from hutch.store import one_trip
from hutch.store.engine import Database

MAKE = text("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT UNIQUE)")
ADD = text("INSERT INTO things (name) VALUES (:name)")
NAMES = text("SELECT name FROM things ORDER BY id")


@pytest.fixture
async def database(tmp_path: Path):
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/one.db")
    async with database.write() as connection:
        await connection.execute(MAKE)
    yield database
    await database.close()


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


async def test_each_statement_is_one_trip_to_the_thread(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    trips, run = [], one_trip._run

    def counted(*arguments):
        trips.append(arguments[2])
        return run(*arguments)

    await names(database)  # opens the connection
    monkeypatch.setattr(one_trip, "_run", counted)
    await names(database)
    assert trips == ["SELECT name FROM things ORDER BY id"]
    trips.clear()
    async with database.write() as connection:
        await connection.execute(ADD, {"name": "a"})
    assert trips == ["BEGIN IMMEDIATE", "INSERT INTO things (name) VALUES (?)"]


async def test_what_fails_is_undone_and_the_next_begins_anew(database: Database) -> None:
    for broken, error in (
        (ADD, IntegrityError),
        (text("INSERT INTO nothing VALUES (1)"), OperationalError),
    ):
        with pytest.raises(error):
            async with database.write() as connection:
                await connection.execute(ADD, {"name": "a"})
                await connection.execute(broken, {"name": "a"} if broken is ADD else None)
        assert await names(database) == []


async def test_a_connection_whose_transaction_cannot_be_undone_is_not_used_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self):
        raise OperationalError("ROLLBACK", {}, Exception("the disk is gone"))

    with monkeypatch.context() as patch:
        patch.setattr(one_trip._Connection, "rollback", broken)
        with pytest.raises(OperationalError, match="the disk is gone"):
            async with database.write() as connection:
                await connection.execute(ADD, {"name": "a"})
                raise RuntimeError("whatever")
    async with database.write() as connection:
        await connection.execute(ADD, {"name": "b"})
    assert await names(database) == ["b"]
