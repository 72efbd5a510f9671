"""`Idempotency-Key`s: the first call with a key writes its row in the transaction that creates the sandbox, so that
there is either both or neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import idempotency


@dataclass(frozen=True)
class IdempotencyRow:
    """One key that was used. Times are Unix seconds."""

    owner: str
    key: str
    request_hash: str
    sandbox_id: str
    created_at: float
    expires_at: float
    response: dict[str, Any] | None = None


class IdempotencyKeys:
    """The `idempotency` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, row: IdempotencyRow) -> None:
        """Raises SQLAlchemy's `IntegrityError` when the key was used before."""
        await connection.execute(idempotency.insert(), vars(row))

    async def get(self, owner: str, key: str) -> IdempotencyRow | None:
        statement = select(idempotency).where(idempotency.c.owner == owner, idempotency.c.key == key)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return IdempotencyRow(**row) if row is not None else None

    async def answer(self, owner: str, key: str, response: dict[str, Any]) -> None:
        """Keep the answer for those who ask again."""
        async with self._database.write() as connection:
            await self.answer_in(connection, owner, key, response)

    async def answer_in(self, connection: Transaction, owner: str, key: str, response: dict[str, Any]) -> None:
        """`answer` inside a transaction."""
        statement = update(idempotency).where(idempotency.c.owner == owner, idempotency.c.key == key)
        await connection.execute(statement.values(response=response))

    async def forget(self, owner: str, key: str, sandbox_id: str) -> None:
        """Free the key again: the call failed in a way that is worth a new try."""
        statement = delete(idempotency).where(
            idempotency.c.owner == owner, idempotency.c.key == key, idempotency.c.sandbox_id == sandbox_id
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def sweep(self, now: float) -> None:
        """Delete what has expired."""
        async with self._database.write() as connection:
            await connection.execute(delete(idempotency).where(idempotency.c.expires_at <= now))
