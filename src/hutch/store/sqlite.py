"""SQLite under SQLAlchemy, each statement one trip to a thread; or a whole transaction, where all of it can be said
before it begins.

A statement takes SQLite a tenth of a millisecond, and the trip there and back as much again: a wake-up of the thread
and one of the event loop. SQLAlchemy's asyncio on top (greenlets, a driver's own queue) took five times that.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, CursorResult, Engine, Executable, create_engine, event
from sqlalchemy.pool import NullPool

T = TypeVar("T")
_READERS = 8
_BUSY_TIMEOUT_MS = 15_000
_ROOM = 4_500_000
"""Bytes of the database's own files that are kept free; more than the log has when SQLite begins it anew."""


class SqliteFile:
    """One database file: a thread with the connection that writes, and some that read. Its callers see to it that there
    is one transaction at a time."""

    def __init__(self, url: URL) -> None:
        url = url.set(drivername="sqlite+pysqlite")
        self._database = url.database or ""
        shared: dict[str, Any] = {
            "connect_args": {"check_same_thread": False, "factory": _Connection},
            "poolclass": NullPool,
            "pool_reset_on_return": None,
        }
        self._writes = create_engine(url, **shared)
        # Reads are single statements: they need no BEGIN, and no ROLLBACK.
        self._reads = create_engine(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True, **shared)
        event.listen(self._writes, "begin", _begin)
        for engine in (self._writes, self._reads):
            event.listen(engine, "connect", _configure)
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="database")
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="database-read")
        self._open: list[Connection] = []
        self._writing: Connection | None = None
        self._plain: sqlite3.Connection | None = None
        self._own = threading.local()

    def close(self) -> None:
        """After the last statement."""
        for threads in (self.readers, self.writer):
            threads.shutdown(wait=True)
        for connection in self._open:
            connection.close()
        if self._plain is not None:
            self._plain.close()

    # ---- in a thread that reads ----

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do it with this thread's connection."""
        connection: Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect(self._reads)
        try:
            return work(connection)
        finally:
            connection.rollback()  # which is SQLAlchemy's own bookkeeping: SQLite is in no transaction

    # ---- in the thread that writes ----

    def step(self, work: Callable[[Connection], T]) -> T:
        """Part of a transaction, which begins with its first one."""
        if self._writing is None:
            self._writing = self._connect(self._writes)
        if not self._writing.in_transaction():
            self._writing.begin()
        return work(self._writing)

    def commit(self) -> None:
        """The end of it, if it has begun."""
        if self._writing is not None:
            self._writing.commit()

    def undo(self) -> None:
        """Who comes next finds no transaction: nobody looks again."""
        if self._writing is not None:
            try:
                self._writing.rollback()
            except BaseException:
                broken, self._writing = self._writing, None
                self._open.remove(broken)
                broken.invalidate()
                broken.close()
                raise

    def whole(self, work: Callable[[Connection], T]) -> T:
        """A transaction."""
        try:
            done = self.step(work)
            self.commit()
        except BaseException:
            self.undo()
            raise
        return done

    def whole_plain(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """A transaction without SQLAlchemy between, whose Python takes longer than SQLite's work."""
        connection = self._bare()
        connection.execute("BEGIN IMMEDIATE")
        try:
            done = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return done

    def keep_room(self) -> None:
        """Have free pages in the database, and a log of some length: what is written next takes those, and no byte of
        the disk. Both are made by writing as much, and removing it."""
        connection, log = self._bare(), Path(f"{self._database}-wal")
        free, page = (connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("freelist_count", "page_size"))
        if free * page >= _ROOM // 2 and log.exists() and log.stat().st_size >= _ROOM:
            return
        self.whole_plain(_fill)
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # which waits for no reader
        connection.execute("DROP TABLE room")

    def _bare(self) -> sqlite3.Connection:
        if self._plain is None:
            self._plain = sqlite3.connect(self._database, check_same_thread=False)
            _configure(self._plain, None)
        return self._plain

    def _connect(self, engine: Engine) -> Connection:
        connection = engine.connect()
        self._open.append(connection)
        return connection


def plain(connection: Connection) -> sqlite3.Connection:
    """As the driver has it."""
    driver: Any = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


class AtOnce:
    """A connection whose `execute` never waits: what awaits nothing else runs through where it is called."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return self._connection.execute(statement, parameters)

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        return work(self._connection)


def run_through(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result, if it gets there without waiting for anything."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction in one trip has nothing to wait for but its connection")


class _Cursor(sqlite3.Cursor):
    """Has all rows when the statement has been run: who reads them is in another thread, where nothing may wait for the
    disk."""

    def execute(self, *statement: Any) -> _Cursor:
        super().execute(*statement)
        self._rows = deque(super().fetchall() if self.description is not None else ())
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> _Cursor:
        super().executemany(sql, parameters)
        self._rows = deque()
        return self

    def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or 1, len(self._rows)))]

    def fetchall(self) -> list[Any]:
        rows, self._rows = list(self._rows), deque()
        return rows

    def close(self) -> None:
        """There is nothing left of the statement in SQLite."""


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)


def _configure(dbapi: Any, _record: Any) -> None:
    dbapi.isolation_level = None  # we say BEGIN ourselves: the driver's own begins too late, and not IMMEDIATE
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-16000",
        "journal_size_limit=67108864",
    ):
        dbapi.execute(f"PRAGMA {pragma}")


def _fill(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS room")  # of a server that was killed before it did
    connection.execute("CREATE TABLE room (filler BLOB)")
    connection.execute("INSERT INTO room VALUES (zeroblob(?))", (_ROOM,))


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
