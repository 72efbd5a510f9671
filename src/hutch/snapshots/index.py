"""The index of one store: SQLite, and its transactions.

A pack is durable before a row names it, and a row is gone before its pack is deleted. So a power cut leaves at worst
files that no row names, which opening the store removes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hutch.errors import DiskFull

FORMAT = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS machine (boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS domains (id INTEGER PRIMARY KEY, org TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS packs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pack INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL,
    raw INTEGER NOT NULL, digest BLOB NOT NULL, domain INTEGER NOT NULL, refs INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS segments_of_pack ON segments (pack);
CREATE INDEX IF NOT EXISTS segments_of_domain ON segments (domain, refs, stored);
CREATE INDEX IF NOT EXISTS segments_unused ON segments (id) WHERE refs = 0;
CREATE TABLE IF NOT EXISTS chunks (
    hash BLOB NOT NULL, domain INTEGER NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    PRIMARY KEY (hash, domain)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_of_segment ON chunks (segment);
CREATE TABLE IF NOT EXISTS snapshots (
    id TEXT PRIMARY KEY, sandbox TEXT NOT NULL, org TEXT, parent TEXT, created_at REAL NOT NULL, record TEXT NOT NULL,
    logical INTEGER NOT NULL, stored INTEGER, synced INTEGER NOT NULL, recipe BLOB, recipe_digest BLOB);
CREATE INDEX IF NOT EXISTS snapshots_of_sandbox ON snapshots (sandbox, created_at);
CREATE INDEX IF NOT EXISTS snapshots_of_parent ON snapshots (parent);
CREATE TABLE IF NOT EXISTS checksums (snapshot TEXT NOT NULL, file TEXT NOT NULL, sums BLOB NOT NULL,
    PRIMARY KEY (snapshot, file)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS damage (snapshot TEXT PRIMARY KEY, round REAL NOT NULL);
CREATE TABLE IF NOT EXISTS scrub (begun REAL NOT NULL, over INTEGER NOT NULL, hot TEXT NOT NULL,
    segment INTEGER NOT NULL);
"""


class Index:
    """One connection, used by one thread at a time. Nothing in here waits for anything but the disk."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if found > FORMAT:
            self._db.close()
            raise RuntimeError(f"{path} was written by a newer Hutch (format {found}, this one knows {FORMAT})")
        with self.write() as db:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction; durable when it ends, without a trace when it raises. Raises `DiskFull`."""
        with self._lock, _telling_full():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection, with no one writing."""
        with self._lock:
            yield self._db

    def last_boot(self) -> str | None:
        """The boot id of the machine that was noted last."""
        row = self._db.execute("SELECT boot FROM machine").fetchone()
        return None if row is None else str(row[0])

    def note_boot(self, boot: str) -> None:
        """Note the machine's boot id."""
        with self.write() as db:
            db.execute("DELETE FROM machine")
            db.execute("INSERT INTO machine VALUES (?)", (boot,))

    def close(self) -> None:
        """After the last transaction."""
        with self._lock:
            self._db.close()


@contextmanager
def _telling_full() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise DiskFull("the disk of the node's snapshots is full") from error
        raise
