"""The database: one engine, transactions that read and transactions that write.

One transaction that may write runs at a time, also where several servers share a PostgreSQL: what is read in one stays
true until it ends. There an advisory lock sees to it.

SQLite's peculiarities live here and in `sqlite.py`, and nowhere else. WAL lets readers go on while one writes; a write
transaction takes the write lock when it begins (`BEGIN IMMEDIATE`), so that it never fails half-way with "database is
locked", and our own writers queue in an asyncio lock, which is fair and costs no polling. `synchronous=NORMAL`: a
committed transaction survives `kill -9` of the process (the pages are the kernel's by then); only a power cut can take
the last ones, and it takes the sandboxes with them. `make_durable` is for what must outlast that: a sandbox is to be
paused.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hutch.errors import DiskFull
from hutch.store.sqlite import AtOnce, SqliteFile, run_through

T = TypeVar("T")
_ONE_WRITER = 0x6875746368
"""The number of PostgreSQL's advisory lock that writers hold."""
_PLENTY = 8 << 30
"""Free bytes of a disk that is not full for some time."""
_DISK_FULL = "53100"
"""PostgreSQL's error class `disk_full`."""


class DatabaseFull(DiskFull):
    """The server's own disk is full: nothing was written."""


class Transaction(Protocol):
    """What the code inside a transaction may do. Whoever is cancelled is so between two statements, never in the middle
    of one: a driver that is torn out of a statement leaves its thread at it, and the write lock with the thread."""

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Run one statement; the result is all there."""
        ...

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Run code that knows no asyncio."""
        ...


class Database:
    """An engine with two kinds of transaction."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._turn = asyncio.Lock()
        if not self.sqlite:
            # A server may have been started anew since it was spoken to.
            self._writer = create_async_engine(self.url, pool_size=8, max_overflow=24, pool_pre_ping=True)
            self._reader = create_async_engine(
                self.url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True,
                pool_size=8, max_overflow=24, pool_pre_ping=True,
            )  # fmt: skip
            event.listen(self._writer.sync_engine, "begin", _begin_postgresql)
            return
        if self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        self._file = SqliteFile(self.url)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        """For one statement that reads; two of them may see two states of the database."""
        if self.sqlite:
            yield _Trips(self._file.readers, self._file.read)
            return
        async with _connected(self._reader) as connection:
            yield _Remote(connection)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        """A transaction that may write: committed at the end of the block, rolled back when it raises. Never await
        the network inside."""
        async with self._turn:
            if self.sqlite:
                async with self._write_sqlite() as transaction:
                    yield transaction
                return
            async with _connected(self._writer) as connection:
                try:
                    await _unbroken(connection.begin().start())
                    yield _Remote(connection)
                    await _unbroken(connection.commit())
                except BaseException as error:
                    await _undo(connection)
                    _check_room(error)
                    raise

    async def transact(self, work: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        """`write` for what awaits nothing but its connection: on SQLite all of it is one trip to a thread, in which
        `work` runs, and not one for each statement."""
        if not self.sqlite:
            async with self.write() as connection:
                return await work(connection)
        # `work` may ask on whose behalf it is.
        context = copy_context()
        return await self._whole(
            self._file.whole, lambda connection: context.run(run_through, work(AtOnce(connection)))
        )

    async def write_at_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for SQLite alone, and without SQLAlchemy: for writes that are small and many."""
        return await self._whole(self._file.whole_plain, work)

    async def make_durable(self) -> None:
        """What is committed outlasts a power cut from here on. One `fsync` of the log, and no wait for readers: nobody
        holds a lock by a descriptor of that file."""
        if self.sqlite and self.url.database:
            await asyncio.to_thread(_sync, Path(f"{self.url.database}-wal"))

    async def settle(self) -> None:
        """As `make_durable`, and all of the log is in the database's own file."""
        if self.sqlite:
            async with self._turn, self.read() as connection:
                await connection.run_sync(lambda sync: sync.exec_driver_sql("PRAGMA wal_checkpoint(FULL)"))

    async def keep_room(self) -> None:
        """Once the disk begins to be full, have room in SQLite's own files: when there is none left, a call that frees
        some (a sandbox is to be deleted) can still be written down. Raises `DatabaseFull` when it is too late."""
        if not self.sqlite or not self.url.database:
            return
        directory = Path(self.url.database).parent
        if (await asyncio.to_thread(shutil.disk_usage, directory)).free >= _PLENTY:
            return
        async with self._turn:
            try:
                await _in_thread(self._file.writer, self._file.keep_room)
            except sqlite3.Error as error:
                _check_room(error)
                raise

    async def close(self) -> None:
        if self.sqlite:
            await asyncio.to_thread(self._file.close)
            return
        await self._reader.dispose()
        await self._writer.dispose()

    @asynccontextmanager
    async def _write_sqlite(self) -> AsyncIterator[Transaction]:
        file, transaction = self._file, _Trips(self._file.writer, self._file.step)
        try:
            yield transaction
            await _in_thread(file.writer, file.commit)
        except BaseException as error:
            await _in_thread(file.writer, file.undo)
            _check_room(error)
            raise

    async def _whole(self, do: Callable[[Callable[[Any], T]], T], work: Callable[[Any], T]) -> T:
        async with self._turn:
            try:
                return await _in_thread(self._file.writer, do, work)
            except Exception as error:
                _check_room(error)
                raise


class _Remote:
    """By SQLAlchemy's asyncio."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        return await _unbroken(self._connection.execute(statement, parameters))

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        return await _unbroken(self._connection.run_sync(work))


class _Trips:
    """In a thread, one trip a statement."""

    def __init__(self, threads: ThreadPoolExecutor, do: Callable[[Callable[[Connection], Any]], Any]) -> None:
        self._threads = threads
        self._do = do

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        found: CursorResult[Any] = await self.run_sync(lambda connection: connection.execute(statement, parameters))
        return found

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        done: T = await _in_thread(self._threads, self._do, work)
        return done


async def _in_thread(threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
    return await _unbroken(asyncio.get_running_loop().run_in_executor(threads, work, *arguments))


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    connection = engine.connect()
    try:
        await _unbroken(connection.start())
        yield connection
    finally:
        if connection.sync_connection is not None:
            await _unbroken(connection.close())


async def _undo(connection: AsyncConnection) -> None:
    """Who gets the connection next finds no transaction in it: nobody looks again."""
    try:
        await _unbroken(connection.rollback())
    except Exception:
        await _unbroken(connection.invalidate())
        raise


def _sync(log: Path) -> None:
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # all of it is in the database
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin_postgresql(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")


def _check_room(error: BaseException) -> None:
    """Raises `DatabaseFull` for an error that says so."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    full = isinstance(cause, sqlite3.Error) and "disk is full" in str(cause)
    if full or getattr(cause, "sqlstate", None) == _DISK_FULL:
        raise DatabaseFull("the server's disk is full") from error


async def _unbroken(work: Awaitable[T]) -> T:
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
