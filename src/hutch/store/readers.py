"""How far each agent's output has been read: stored with the events that came of it, in one transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import readers


@dataclass(frozen=True)
class ReaderRow:
    """The place in one agent's output, and what must be remembered to read on from it."""

    task_id: str
    guest_offset: int = 0
    lines: dict[str, Any] = field(default_factory=dict)
    stdout: bytes = b""
    stderr: bytes = b""
    outcome: dict[str, Any] = field(default_factory=dict)
    exit: dict[str, Any] | None = None
    event_bytes: int = 0


class Readers:
    """The `readers` table: one row a task."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, task_id: str) -> None:
        await connection.execute(readers.insert().values(**asdict(ReaderRow(task_id))))

    async def get(self, task_id: str) -> ReaderRow:
        async with self._database.read() as connection:
            row = (await connection.execute(select(readers).where(readers.c.task_id == task_id))).mappings().one()
        return ReaderRow(**row)

    async def lock(self, connection: Transaction, task_id: str) -> ReaderRow:
        """The row, locked until the end of the transaction."""
        statement = select(readers).where(readers.c.task_id == task_id).with_for_update()
        return ReaderRow(**(await connection.execute(statement)).mappings().one())

    async def put(self, connection: Transaction, row: ReaderRow) -> None:
        """Replace the row."""
        await connection.execute(update(readers).where(readers.c.task_id == row.task_id).values(**asdict(row)))
