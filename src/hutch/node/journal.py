"""The node's journal: facts in the order in which they became true, durable before anyone sees them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from hutch.errors import DiskFull
from hutch.model import JournalEntry, JournalKind, LimitBreach, LlmUsage
from hutch.node.database import NodeDatabase

log = structlog.get_logger("hutch.node")

PAGE = 500
KEEP_SECONDS = 7 * 86400.0
KEEP_ACTIVITY = 50_000
"""Entries of what goes on inside sandboxes that are kept while no server reads them."""
_RETRY_SECONDS = 1.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, sandbox TEXT NOT NULL, kind TEXT NOT NULL,
    data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS limits ON journal (sandbox) WHERE kind = 'limit';
CREATE UNIQUE INDEX IF NOT EXISTS once ON journal (sandbox, kind) WHERE kind IN ('sandbox_running', 'sandbox_dead');
CREATE INDEX IF NOT EXISTS activity ON journal (seq) WHERE kind = 'activity';
CREATE TABLE IF NOT EXISTS llm_total (sandbox TEXT PRIMARY KEY, usage TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS llm_day (org TEXT, day TEXT, usage TEXT NOT NULL, PRIMARY KEY (org, day));
"""


@dataclass(frozen=True)
class _Pending:
    row: tuple[float, str, str, str]
    done: asyncio.Future[None]


class Journal:
    """Entries that wait while one is written are committed together."""

    def __init__(self, path: Path) -> None:
        self._db = NodeDatabase(path, _SCHEMA, "FULL")  # a number that was seen is never given out again
        self._pending: list[_Pending] = []
        self._flusher: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._last = self._taken = 0
        self._closed = False

    async def open(self) -> None:
        """Open or make the database."""
        await self._db.open()
        self._last = await self._db.read(_newest)

    async def append(self, sandbox: str, kind: JournalKind, data: dict[str, Any], within: float = 0.0) -> None:
        """Write an entry; it is durable when this returns. `sandbox_running` and `sandbox_dead` are kept once a
        sandbox: a second one changes nothing. `within`: seconds in which it may be written, together with the next one;
        in the order in which they came. Raises `DiskFull`."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        text = json.dumps(data, separators=(",", ":"))
        self._pending.append(_Pending((time.time(), sandbox, kind, text), done))
        if within:
            asyncio.get_running_loop().call_later(within, self.hurry)
        else:
            self.hurry()
        await done

    def hurry(self) -> None:
        """Begin to write what waits for the next entry."""
        if self._pending and (self._flusher is None or self._flusher.done()):
            self._flusher = asyncio.create_task(self._flush())

    async def insist(self, sandbox: str, kind: JournalKind, data: dict[str, Any], within: float = 0.0) -> None:
        """`append` for what must not be lost: waits for the disk to have room again."""
        while True:
            try:
                return await self.append(sandbox, kind, data, within)
            except DiskFull as error:
                log.error("journal not writable, trying again", sandbox=sandbox, kind=kind, error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def read(self, after: int, wait: float) -> tuple[list[JournalEntry], int]:
        """The oldest entries behind `after` (at most `PAGE`), and the number to go on from. Waits up to `wait`
        seconds for one."""
        end = time.monotonic() + wait
        self.hurry()
        if self._flusher is not None:
            await asyncio.shield(self._flusher)
        self._taken = max(self._taken, after)
        while True:
            news = self._news
            entries = await self._db.read(lambda db: _page(db, after)) if self._last > after else []
            left = end - time.monotonic()
            if entries or left <= 0 or self._closed:
                return entries, entries[-1].seq if entries else self._last
            try:
                async with asyncio.timeout(left):
                    await news.wait()
            except TimeoutError:
                continue

    async def breaches(self, sandbox: str) -> list[LimitBreach]:
        """The limits that the sandbox has hit."""
        return await self._db.read(lambda db: _breaches(db, sandbox))

    async def llm_totals(self) -> dict[str, LlmUsage]:
        """The last usage written for each sandbox that was not forgotten."""
        return await self._db.read(_totals)

    async def llm_days(self, since: str) -> list[tuple[str, str, LlmUsage]]:
        """The last usage written for each organisation and day from that day on."""
        return await self._db.read(lambda db: _days(db, since))

    async def forget(self, sandbox: str) -> None:
        """Drop the sandbox's running total; its entries stay until they are trimmed."""
        await self._db.write(lambda db: db.execute("DELETE FROM llm_total WHERE sandbox = ?", (sandbox,)))

    async def trim(self) -> None:
        """Drop entries older than a week, and of what goes on inside sandboxes, which is most, what a server has."""
        horizon = time.time() - KEEP_SECONDS
        if dropped := await self._db.write(lambda db: _trim(db, horizon, self._taken)):
            log.error("what went on in sandboxes is dropped: no server reads it", entries=dropped)

    def wake(self) -> None:
        """Send all waiting readers home (the daemon stops)."""
        self._closed = True
        self._news.set()

    async def close(self) -> None:
        """Write what is pending and close."""
        self.wake()
        self.hurry()
        if self._flusher is not None:
            await self._flusher
        await self._db.close()

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            rows = [entry.row for entry in batch]
            try:
                self._last = await self._db.write(partial(_insert, rows=rows))
            except sqlite3.Error as error:
                for entry in batch:
                    _settle(entry.done, DiskFull(f"the node's journal cannot be written: {error}"))
                continue
            for entry in batch:
                _settle(entry.done, None)
            news, self._news = self._news, asyncio.Event()
            news.set()


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():  # the one who waited has gone
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _insert(db: sqlite3.Connection, rows: list[tuple[float, str, str, str]]) -> int:
    db.executemany("INSERT OR IGNORE INTO journal (time, sandbox, kind, data) VALUES (?, ?, ?, ?)", rows)
    totals = [
        (sandbox, json.dumps(json.loads(data)["usage"])) for _, sandbox, kind, data in rows if kind == "llm_usage"
    ]
    db.executemany("INSERT OR REPLACE INTO llm_total (sandbox, usage) VALUES (?, ?)", totals)
    told = [json.loads(data) for _, _, kind, data in rows if kind == "llm_org_usage"]
    days = [(each["org"], each["day"], json.dumps(each["usage"])) for each in told]
    db.executemany("INSERT OR REPLACE INTO llm_day (org, day, usage) VALUES (?, ?, ?)", days)
    return _newest(db)


def _newest(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'journal'").fetchone()
    return int(row[0]) if row else 0


def _page(db: sqlite3.Connection, after: int) -> list[JournalEntry]:
    rows = db.execute(
        "SELECT seq, time, sandbox, kind, data FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", (after, PAGE)
    )
    return [
        JournalEntry(seq=seq, time=datetime.fromtimestamp(at, UTC), sandbox=sandbox, kind=kind, data=json.loads(data))
        for seq, at, sandbox, kind, data in rows
    ]


def _trim(db: sqlite3.Connection, horizon: float, taken: int) -> int:
    """How many were dropped that nobody has read."""
    db.execute("DELETE FROM journal WHERE time < ?", (horizon,))
    db.execute("DELETE FROM journal WHERE kind = 'activity' AND seq <= ?", (taken,))
    last = "SELECT seq FROM journal WHERE kind = 'activity' ORDER BY seq DESC LIMIT 1 OFFSET ?"
    return db.execute(f"DELETE FROM journal WHERE kind = 'activity' AND seq <= ({last})", (KEEP_ACTIVITY,)).rowcount  # noqa: S608


def _breaches(db: sqlite3.Connection, sandbox: str) -> list[LimitBreach]:
    query = "SELECT data FROM journal WHERE sandbox = ? AND kind = 'limit' ORDER BY seq"
    return [LimitBreach.model_validate_json(data) for (data,) in db.execute(query, (sandbox,))]


def _totals(db: sqlite3.Connection) -> dict[str, LlmUsage]:
    totals = {}
    for sandbox, usage in db.execute("SELECT sandbox, usage FROM llm_total"):
        try:
            totals[sandbox] = LlmUsage.model_validate_json(usage)
        except ValidationError:
            log.warning("stored usage unreadable", sandbox=sandbox)
    return totals


def _days(db: sqlite3.Connection, since: str) -> list[tuple[str, str, LlmUsage]]:
    days = []
    for org, day, usage in db.execute("SELECT org, day, usage FROM llm_day WHERE day >= ?", (since,)):
        try:
            days.append((org, day, LlmUsage.model_validate_json(usage)))
        except ValidationError:
            log.warning("stored usage unreadable", org=org, day=day)
    return days
