"""Where the scrub of a store is, and what it has found that could not be made good."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, replace

from hutch.snapshots.index import Index


@dataclass(frozen=True)
class Position:
    """A place in a round: all up to the plain files of snapshot `hot`, and up to `segment`, was read."""

    begun: float = 0.0
    """Unix time at which the round began."""
    over: bool = False
    hot: str = ""
    segment: int = 0


class Rounds:
    """In the index of the store."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def position(self) -> Position:
        """Where it was left; before the first round, the end of one long ago."""
        with self._index.read() as db:
            row = db.execute("SELECT begun, over, hot, segment FROM scrub").fetchone()
        return Position(over=True) if row is None else Position(row[0], bool(row[1]), row[2], row[3])

    def note(self, at: Position) -> None:
        """It has come so far. Raises `DiskFull`."""
        with self._index.write() as db:
            _put(db, at)

    def end(self, at: Position) -> None:
        """The round is over: what was found in earlier ones and not in this is good again. Raises `DiskFull`."""
        with self._index.write() as db:
            db.execute("DELETE FROM damage WHERE round != ?", (at.begun,))
            _put(db, replace(at, over=True))  # of a store in which there is nothing, nothing was noted before

    def note_damage(self, id: str, at: Position) -> None:
        """A snapshot that cannot be read any more, or not when its plain files go. Raises `DiskFull`."""
        with self._index.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO damage SELECT id, ? FROM snapshots WHERE id = ?",
                (at.begun, id),
            )

    def damaged(self) -> list[str]:
        """Those snapshots."""
        with self._index.read() as db:
            return [id for (id,) in db.execute("SELECT snapshot FROM damage ORDER BY snapshot")]


def _put(db: sqlite3.Connection, at: Position) -> None:
    db.execute("DELETE FROM scrub")
    db.execute("INSERT INTO scrub VALUES (?, ?, ?, ?)", astuple(at))
