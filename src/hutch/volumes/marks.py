"""What was done for a mount and may be asked for again, because its answer was lost: written with the change itself, in
the same transaction, so that the next process knows of it. Bounded in number for each mount."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

REMEMBERED = 1024
"""Done requests of one mount. A mount waits for the answers of fewer (`hutch_guest/volumes/pump.py`)."""
_FORGET_EVERY = 64

SCHEMA = """
CREATE TABLE IF NOT EXISTS mount (
    id INTEGER PRIMARY KEY,
    sandbox TEXT NOT NULL,
    path TEXT NOT NULL,
    UNIQUE (sandbox, path)
);
CREATE TABLE IF NOT EXISTS done (
    mount INTEGER NOT NULL,
    number INTEGER NOT NULL,
    mark BLOB NOT NULL,
    made BLOB NOT NULL,
    PRIMARY KEY (mount, number)
) WITHOUT ROWID;
"""
"""`done` has a row for each `Note`."""


@dataclass
class Note(Generic[T]):
    """One request of a mount that changes something: `number` counts them, `mark` tells it from all others. `made` is
    what the answer says of what it has made, in the words of `describe`; nothing where it makes nothing."""

    mount: int
    number: int
    mark: bytes
    describe: Callable[[T], bytes]
    made: bytes = b""


@dataclass(frozen=True)
class Done:
    """Such a request, as an earlier process has noted it."""

    number: int
    mark: bytes
    made: bytes


class Marks:
    """Of all mounts of one tree, in its database."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def mount(self, sandbox: str, path: str) -> int:
        """The number of a mount; one that has none is given one."""
        row = self._db.execute("SELECT id FROM mount WHERE sandbox = ? AND path = ?", (sandbox, path)).fetchone()
        if row is not None:
            return int(row[0])
        made = self._db.execute("INSERT INTO mount (sandbox, path) VALUES (?, ?)", (sandbox, path))
        return int(made.lastrowid or 0)

    def add(self, note: Note[T]) -> None:
        """To be called in the transaction of the change."""
        self._db.execute("INSERT INTO done VALUES (?, ?, ?, ?)", (note.mount, note.number, note.mark, note.made))
        if note.number % _FORGET_EVERY == 0:
            oldest = note.number - REMEMBERED
            self._db.execute("DELETE FROM done WHERE mount = ? AND number <= ?", (note.mount, oldest))

    def of(self, mount: int) -> list[Done]:
        """Those of one mount, in their order."""
        rows = self._db.execute("SELECT number, mark, made FROM done WHERE mount = ? ORDER BY number", (mount,))
        return [Done(*row) for row in rows]

    def forget(self, mount: int) -> None:
        """No answer to this mount is lost."""
        self._db.execute("DELETE FROM done WHERE mount = ?", (mount,))

    def sandboxes(self) -> set[str]:
        """Ids of those that have mounts."""
        return {sandbox for (sandbox,) in self._db.execute("SELECT sandbox FROM mount")}

    def forget_sandbox(self, id: str) -> None:
        """It has ended."""
        self._db.execute("DELETE FROM done WHERE mount IN (SELECT id FROM mount WHERE sandbox = ?)", (id,))
        self._db.execute("DELETE FROM mount WHERE sandbox = ?", (id,))
