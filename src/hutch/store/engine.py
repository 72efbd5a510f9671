"""The database: one engine, transactions that read and transactions that write.

One transaction that may write runs at a time, also where several servers share a PostgreSQL: what is read in one stays
true until it ends. There an advisory lock sees to it.

SQLite's peculiarities live here and nowhere else. WAL lets readers go on while one writes; a write transaction takes
the write lock when it begins (`BEGIN IMMEDIATE`), so that it never fails half-way with "database is locked", and our
own writers queue in an asyncio lock, which is fair and costs no polling. `synchronous=NORMAL`: a committed
transaction survives `kill -9` of the process (the pages are the kernel's by then); only a power cut can take the last
ones, and it takes the sandboxes with them. `make_durable` is for what must outlast that: a sandbox is to be paused.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hutch.errors import DiskFull
from hutch.store.one_trip import Driver

T = TypeVar("T")
_BUSY_TIMEOUT_MS = 15_000
_ONE_WRITER = 0x6875746368
"""The number of PostgreSQL's advisory lock that writers hold."""
_DISK_FULL = "53100"
"""PostgreSQL's error class `disk_full`."""


class DatabaseFull(DiskFull):
    """The server's own disk is full: nothing was written."""


class Transaction:
    """What the code inside a transaction may do. Whoever is cancelled is so between two statements, never in the middle
    of one: a driver that is torn out of a statement leaves its thread at it, and the write lock with the thread."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one statement; the result is all there."""
        return await _unbroken(self._connection.execute(statement, parameters))

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run code that knows no asyncio."""
        return await _unbroken(self._connection.run_sync(work))


class Database:
    """An engine with two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite and self.url.database and self.url.database != ":memory:":
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # A file is always there; a server may have been started anew since it was spoken to.
        self._driver: dict[str, Any] = (
            {"module": Driver(), "pool_reset_on_return": None} if self.sqlite else {"pool_pre_ping": True}
        )
        self._writer = create_async_engine(self.url, pool_size=8, max_overflow=24, **self._driver)
        self._reader = self._make_reader()
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._plain: sqlite3.Connection | None = None
        if self.sqlite:
            event.listen(self._writer.sync_engine, "connect", _configure_sqlite)
            event.listen(self._writer.sync_engine, "begin", _begin_sqlite)
            event.listen(self._reader.sync_engine, "connect", _configure_sqlite)
        else:
            event.listen(self._writer.sync_engine, "begin", _begin_postgresql)

    def _make_reader(self) -> AsyncEngine:
        """Reads are single statements, so they need no BEGIN and no ROLLBACK: on SQLite each of these is a trip to the
        driver's thread, and without them a read takes half the time."""
        return create_async_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=8,
            max_overflow=24,
            **{"pool_reset_on_return": None} | self._driver,
        )

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """For one statement that reads; two of them may see two states of the database."""
        async with self._connected(self._reader) as connection:
            yield Transaction(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction that may write: committed at the end of the block, rolled back when it raises. Never await
        the network inside."""
        async with self._turn, self._connected(self._writer) as connection:
            try:
                await _unbroken(connection.begin().start())
                yield Transaction(connection)
                await _unbroken(connection.commit())
            except BaseException as error:
                await _undo(connection)
                if isinstance(error, DBAPIError) and _disk_is_full(error):
                    raise DatabaseFull("the server's disk is full") from error
                raise

    async def make_durable(self) -> None:
        """What is committed outlasts a power cut from here on. One `fsync` of the log, and no wait for readers: nobody
        holds a lock by a descriptor of that file."""
        if not self.sqlite or self.url.database in (None, "", ":memory:"):
            return
        await asyncio.to_thread(_sync, Path(f"{self.url.database}-wal"))

    async def settle(self) -> None:
        """As `make_durable`, and all of the log is in the database's own file."""
        if not self.sqlite:
            return
        async with self._turn, self._connected(self._reader) as connection:
            await _unbroken(connection.exec_driver_sql("PRAGMA wal_checkpoint(FULL)"))

    async def write_at_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """A write transaction of SQLite alone, in one trip to a thread: for writes that are small and many. Through
        `write` each statement is a trip of its own, and costs ten times what SQLite takes for it."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            try:
                return await loop.run_in_executor(self._thread, self._transact, work)
            except sqlite3.OperationalError as error:
                if "disk is full" in str(error):
                    raise DatabaseFull("the server's disk is full") from error
                raise

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._plain is None:
            self._plain = sqlite3.connect(self.url.database or "", check_same_thread=False)
            _configure_sqlite(self._plain, None)
        self._plain.execute("BEGIN IMMEDIATE")
        try:
            done = work(self._plain)
            self._plain.execute("COMMIT")
        except BaseException:
            if self._plain.in_transaction:
                self._plain.execute("ROLLBACK")
            raise
        return done

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        connection = engine.connect()
        try:
            await _unbroken(connection.start())
            yield connection
        finally:
            if connection.sync_connection is not None:
                await _unbroken(connection.close())

    async def close(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()
        self._thread.shutdown(wait=True)
        if self._plain is not None:
            self._plain.close()


def _sync(log: Path) -> None:
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # all of it is in the database
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _configure_sqlite(dbapi: Any, _record: Any) -> None:
    dbapi.isolation_level = None  # we say BEGIN ourselves: the driver's own begins too late, and not IMMEDIATE
    cursor = dbapi.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-16000",
        "journal_size_limit=67108864",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _undo(connection: AsyncConnection) -> None:
    """Who gets the connection next finds no transaction in it: nobody looks again."""
    try:
        await _unbroken(connection.rollback())
    except Exception:
        await _unbroken(connection.invalidate())
        raise


def _begin_postgresql(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")


def _disk_is_full(error: DBAPIError) -> bool:
    return "disk is full" in str(error.orig) or getattr(error.orig, "sqlstate", None) == _DISK_FULL


async def _unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Await to the end; a cancellation that comes meanwhile takes effect after it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()  # whatever it was, nobody is there to hear it
        raise asyncio.CancelledError
    return task.result()
