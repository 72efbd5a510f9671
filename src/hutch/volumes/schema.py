"""How a volume's tree is stored: names and attributes in SQLite, the bytes of each file in a file named by a number.

Nothing of what a guest says becomes a path on the host: no name, no link, no mode, no owner. There is nothing to
follow and nothing to run, and the bytes lie there as the server's own files, without any right.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hutch.volumes import marks

ROOT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inode (
    ino INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    size INTEGER NOT NULL,
    atime INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    target BLOB,
    linked INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS inode_unlinked ON inode (ino) WHERE linked = 0;
CREATE TABLE IF NOT EXISTS entry (
    cookie INTEGER PRIMARY KEY AUTOINCREMENT,
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    ino INTEGER NOT NULL,
    UNIQUE (parent, name)
);
CREATE INDEX IF NOT EXISTS entry_order ON entry (parent, cookie);
DROP TABLE IF EXISTS used;
"""
"""Numbers of inodes are never given twice: what a sandbox remembers of one that is gone can be no other. `linked` is 0
for a file without a name that somebody still has open. Cookies are the places to which `readdir` returns; 1 and 2 are
those of `.` and `..`. Times are nanoseconds. (`used` is what an earlier version kept.)"""
INSERT = "INSERT INTO inode VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def open_database(path: Path, now: int) -> sqlite3.Connection:
    """Open it, or make it with an empty root that anybody may write to. To be used by one thread at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(_SCHEMA + marks.SCHEMA)
    if connection.execute("SELECT 1 FROM inode WHERE ino = ?", (ROOT,)).fetchone() is None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT, (ROOT, ROOT, 0o40777, 0, 0, 0, now, now, now, None, 1))
        connection.execute("INSERT INTO sqlite_sequence VALUES ('entry', 2)")
        connection.execute("COMMIT")
    return connection
