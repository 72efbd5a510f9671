"""Where a task was when a snapshot of its sandbox was taken: how far its agent's output had been read, and what its row
said. With it, a task that is taken back to the snapshot goes on from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import delete, select

from hutch.model import SnapshotReason
from hutch.store.engine import Database, Transaction
from hutch.store.readers import ReaderRow
from hutch.store.tables import bookmarks

_KEPT = 120
"""Of each reason: some more than a node keeps snapshots."""
_READER = [column.name for column in fields(ReaderRow) if column.name != "task_id"]


@dataclass(frozen=True)
class Bookmark:
    """The place of one task at one snapshot."""

    snapshot: str
    task_id: str
    reason: str
    created_at: float
    turn: int
    task: dict[str, Any]
    """Columns of its row."""
    reader: ReaderRow


class Bookmarks:
    """The `bookmarks` table. A row may be of a snapshot that came to nothing, or is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, connection: Transaction, row: Bookmark) -> None:
        """Write it down, in the place of an earlier one of the same snapshot. Old ones of the same reason, whose
        snapshots are not kept any more, are forgotten; those that a person took may have a name, and stay."""
        await connection.execute(delete(bookmarks).where(bookmarks.c.snapshot == row.snapshot))
        reader = asdict(row.reader)
        values = {name: getattr(row, name) for name in ("snapshot", "task_id", "reason", "created_at", "turn", "task")}
        await connection.execute(bookmarks.insert().values(**values, **{name: reader[name] for name in _READER}))
        if row.reason != SnapshotReason.MANUAL:
            same = (bookmarks.c.task_id == row.task_id, bookmarks.c.reason == row.reason)
            newest = select(bookmarks.c.snapshot).where(*same).order_by(bookmarks.c.created_at.desc()).limit(_KEPT)
            await connection.execute(delete(bookmarks).where(*same, bookmarks.c.snapshot.not_in(newest)))

    async def get(self, snapshot: str) -> Bookmark | None:
        """Of this snapshot."""
        rows = await self._select(select(bookmarks).where(bookmarks.c.snapshot == snapshot))
        return rows[0] if rows else None

    async def lock(self, connection: Transaction, snapshot: str) -> Bookmark | None:
        """The same inside a transaction."""
        statement = select(bookmarks).where(bookmarks.c.snapshot == snapshot)
        row = (await connection.execute(statement)).mappings().one_or_none()
        return _row(row) if row is not None else None

    async def turns(self, task_id: str, reason: str) -> dict[str, int]:
        """The turns of the task's snapshots that were taken for this reason, by snapshot; oldest first."""
        statement = (
            select(bookmarks.c.snapshot, bookmarks.c.turn)
            .where(bookmarks.c.task_id == task_id, bookmarks.c.reason == reason)
            .order_by(bookmarks.c.created_at, bookmarks.c.snapshot)
        )
        async with self._database.read() as connection:
            return {row.snapshot: row.turn for row in (await connection.execute(statement)).all()}

    async def _select(self, statement: Any) -> list[Bookmark]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [_row(row) for row in rows]


def _row(row: Any) -> Bookmark:
    reader = ReaderRow(row["task_id"], **{name: row[name] for name in _READER})
    values = {name: row[name] for name in ("snapshot", "task_id", "reason", "created_at", "turn", "task")}
    return Bookmark(**values, reader=reader)
