"""The event streams of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import events, tasks


@dataclass(frozen=True)
class NewEvent:
    """An event that has no offset yet."""

    type: str
    data: dict[str, Any]
    time: float


@dataclass(frozen=True)
class EventRow:
    """A stored event."""

    offset: int
    time: float
    type: str
    data: dict[str, Any]


class Events:
    """The `events` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, connection: Transaction, task_id: str, new: Sequence[NewEvent]) -> bool:
        """Add events at the end of the stream, in one go. Offsets are given under the lock of the task's row, so
        there is no gap and no double whoever writes. False (and nothing added) when the stream has ended."""
        if not new:
            return True
        statement = (
            update(tasks)
            .where(tasks.c.id == task_id, tasks.c.ended_at.is_(None))
            .values(last_offset=tasks.c.last_offset + len(new))
            .returning(tasks.c.last_offset)
        )
        last = (await connection.execute(statement)).scalar_one_or_none()
        if last is None:
            return False
        first = int(last) - len(new) + 1
        rows = [
            {"task_id": task_id, "offset": first + index, "time": event.time, "type": event.type, "data": event.data}
            for index, event in enumerate(new)
        ]
        await connection.execute(events.insert(), rows)
        return True

    async def read(self, task_id: str, start: int, limit: int) -> list[EventRow]:
        """Events from offset `start` (inclusive)."""
        statement = (
            select(events.c.offset, events.c.time, events.c.type, events.c.data)
            .where(events.c.task_id == task_id, events.c.offset >= start)
            .order_by(events.c.offset)
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [EventRow(**row) for row in rows]
