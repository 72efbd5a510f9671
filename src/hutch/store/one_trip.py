"""SQLite's driver with one trip to its thread for a statement.

SQLAlchemy asks aiosqlite for a cursor, has it execute, fetch and close: each is a call in the driver's thread and a
wake-up of the event loop, four for what takes SQLite a tenth of a millisecond. Here the thread does all of it at once.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from typing import Any, NamedTuple

import aiosqlite
from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
    AsyncAdapt_aiosqlite_dbapi,
)


class _Outcome(NamedTuple):
    description: Any
    rows: list[Any]
    rowcount: int
    lastrowid: int | None


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    """What a statement has given; there is nothing to close. Server-side cursors are another class, and as before."""

    __slots__ = ("_outcome",)

    def __init__(self, adapt_connection: AsyncAdapt_dbapi_connection) -> None:
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection
        self._rows = deque()
        self._outcome = _Outcome(None, [], -1, None)

    @property
    def description(self) -> Any:
        return self._outcome.description

    @property
    def rowcount(self) -> int:
        return self._outcome.rowcount

    @property
    def lastrowid(self) -> Any:
        return self._outcome.lastrowid

    arraysize = 1

    def close(self) -> None:
        self._rows.clear()

    async def _async_soft_close(self) -> None:
        return

    async def _execute_async(self, operation: Any, parameters: Any) -> None:
        await self._trip("execute", operation, () if parameters is None else parameters)

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> None:
        await self._trip("executemany", operation, seq_of_parameters)

    async def _trip(self, method: str, operation: Any, parameters: Any) -> None:
        driver: Any = self._connection
        async with self._adapt_connection._execute_mutex:
            self._outcome = await driver._execute(_run, driver._conn, method, operation, parameters)
            self._rows = deque(self._outcome.rows)


def _run(connection: sqlite3.Connection, method: str, operation: str, parameters: Any) -> _Outcome:
    """In the driver's thread."""
    cursor = connection.cursor()
    try:
        getattr(cursor, method)(operation, parameters)
        rows = cursor.fetchall() if cursor.description else []
        return _Outcome(cursor.description, rows, cursor.rowcount, cursor.lastrowid)
    finally:
        cursor.close()


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()
    _cursor_cls = _Cursor


class Driver(AsyncAdapt_aiosqlite_dbapi):
    """What `create_async_engine` takes as `module`."""

    def __init__(self) -> None:
        super().__init__(aiosqlite, sqlite3)

    def connect(self, *arg: Any, **kw: Any) -> AsyncAdapt_aiosqlite_connection:
        return _Connection(self, super().connect(*arg, **kw)._connection)
