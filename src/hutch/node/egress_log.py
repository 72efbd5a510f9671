"""The egress log of the node's sandboxes: what each reached and was refused, kept for a week, the newest of each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from hutch.egress.reports import UNTOLD, Reports
from hutch.model.egress import EgressEntry
from hutch.node.database import NodeDatabase
from hutch.node.printable import fit

log = structlog.get_logger("hutch.node")

KEEP = 5000
"""Entries of one sandbox."""
KEEP_ALL = 1_000_000
"""Entries of all: some 300 MiB. When there are more, those sandboxes that have most keep fewer."""
KEEP_SECONDS = 7 * 86400.0
PAGE = 1000
MAX_PENDING = 200
"""Different entries of one sandbox within a moment; what is more is counted in one."""
_FLUSH_SECONDS = 0.2
REFUSALS = (0.2, 500.0)
"""Refusals of one sandbox that are listed, a second and in a burst: a flood of them would push out all else."""
REFUSALS_SECONDS = 60.0
"""Between two entries that say how many more there were."""
_COUNTED = ("seconds", "sent", "received", "count")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS egress (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, sandbox TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS of_sandbox ON egress (sandbox, seq);
"""


class EgressLog:
    """What came within a moment is written together; a crash forgets no more."""

    def __init__(self, path: Path) -> None:
        self._db = NodeDatabase(path, _SCHEMA, "NORMAL")
        self._pending: dict[str, dict[str, tuple[float, dict[str, Any]]]] = {}
        self._refusals = Reports(self._refused, rate=REFUSALS, every=REFUSALS_SECONDS)
        self._flusher: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Open or make the database."""
        await self._db.open()

    def add(self, sandbox: str, entry: dict[str, Any]) -> None:
        """Note an entry: the fields of `EgressEntry`, of a guest's making."""
        entry = fit(entry)
        if entry.get("allowed") or _key(entry) in self._pending.get(sandbox, {}):
            self._list(sandbox, entry)
        else:
            self._refusals.add(entry | {"sandbox": sandbox})

    def _refused(self, entry: dict[str, Any]) -> None:
        self._list(entry.pop("sandbox"), entry)

    def _list(self, sandbox: str, entry: dict[str, Any]) -> None:
        of_one = self._pending.setdefault(sandbox, {})
        key = _key(entry)
        if key not in of_one and len(of_one) >= MAX_PENDING:
            entry = _brief(entry)
            key = _key(entry)
        if key in of_one:
            known = of_one[key][1]
            known["count"] = known.get("count", 1) + entry.get("count", 1)
            for name in ("sent", "received"):
                if name in entry:
                    known[name] = known.get(name, 0) + entry[name]
        else:
            of_one[key] = (time.time(), entry)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())

    async def read(self, sandbox: str, after: int, limit: int, wait: float) -> list[EgressEntry]:
        """The oldest entries behind `after`. Waits up to `wait` seconds for one."""
        end = time.monotonic() + wait
        while True:
            news = self._news
            rows = await self._db.read(lambda db: _page(db, sandbox, after, min(limit, PAGE)))
            left = end - time.monotonic()
            if rows or left <= 0 or self._closed:
                return [_entry(*row) for row in rows]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await news.wait()

    async def trim(self) -> None:
        """Drop entries older than a week, and what is too much in all."""
        await self._db.write(lambda db: _trim(db, time.time() - KEEP_SECONDS))

    def wake(self) -> None:
        """Send all waiting readers home (the daemon stops)."""
        self._closed = True
        self._news.set()

    async def close(self) -> None:
        """Write what is pending and close."""
        self.wake()
        self._refusals.flush()
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        await self._write()
        await self._db.close()

    async def _flush(self) -> None:
        while self._pending:
            await asyncio.sleep(_FLUSH_SECONDS)
            await asyncio.shield(self._write())

    async def _write(self) -> None:
        pending, self._pending = self._pending, {}
        rows = [(at, sandbox, json.dumps(entry)) for sandbox, of in pending.items() for at, entry in of.values()]
        try:
            await self._db.write(lambda db: _insert(db, rows, list(pending)))
        except sqlite3.Error as error:
            log.error("egress log not written", entries=len(rows), error=str(error))
        news, self._news = self._news, asyncio.Event()
        if self._closed:
            self._news.set()
        news.set()


def _key(entry: dict[str, Any]) -> str:
    """What is the same in entries that are one."""
    return json.dumps({name: value for name, value in entry.items() if name not in _COUNTED})


def _brief(entry: dict[str, Any]) -> dict[str, Any]:
    """What stands for an entry that is not listed."""
    counted = {name: entry[name] for name in ("count", "sent", "received") if name in entry}
    return {"kind": "connection", "allowed": entry.get("allowed", False), "reason": UNTOLD} | counted


def _insert(db: sqlite3.Connection, rows: list[tuple[float, str, str]], sandboxes: list[str]) -> None:
    db.executemany("INSERT INTO egress (time, sandbox, data) VALUES (?, ?, ?)", rows)
    oldest = "SELECT seq FROM egress WHERE sandbox = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2"
    for sandbox in sandboxes:
        db.execute(f"DELETE FROM egress WHERE sandbox = ?1 AND seq <= ({oldest})", (sandbox, KEEP))  # noqa: S608


def _trim(db: sqlite3.Connection, horizon: float) -> None:
    db.execute("DELETE FROM egress WHERE time < ?", (horizon,))
    entries, sandboxes = db.execute("SELECT count(*), count(DISTINCT sandbox) FROM egress").fetchone()
    if entries > KEEP_ALL:  # to each its share: whoever makes many entries pushes out none of others
        numbered = "SELECT seq, row_number() OVER (PARTITION BY sandbox ORDER BY seq DESC) AS nth FROM egress"
        share = max(1, KEEP_ALL // sandboxes)
        db.execute(f"DELETE FROM egress WHERE seq IN (SELECT seq FROM ({numbered}) WHERE nth > ?)", (share,))  # noqa: S608


def _page(db: sqlite3.Connection, sandbox: str, after: int, limit: int) -> list[tuple[int, float, str]]:
    query = "SELECT seq, time, data FROM egress WHERE sandbox = ? AND seq > ? ORDER BY seq LIMIT ?"
    return db.execute(query, (sandbox, after, limit)).fetchall()


def _entry(seq: int, at: float, data: str) -> EgressEntry:
    return EgressEntry(seq=seq, time=datetime.fromtimestamp(at, UTC), **json.loads(data))
