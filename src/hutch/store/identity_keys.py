"""The issuer's signing keys, secret parts sealed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import identity_keys


@dataclass(frozen=True)
class IdentityKeyRow:
    """One key. It is published from its making to `gone_at`, and signs from `signs_since` to `retired_at` (Unix
    seconds)."""

    id: str
    sealed: bytes
    public: dict[str, Any]
    """As a JSON Web Key."""
    created_at: float
    signs_since: float | None = None
    retired_at: float | None = None
    gone_at: float | None = None


class IdentityKeys:
    """The `identity_keys` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[IdentityKeyRow]:
        """Oldest first."""
        async with self._database.read() as connection:
            return await self.all_in(connection)

    async def all_in(self, connection: Transaction) -> list[IdentityKeyRow]:
        """`all` inside a transaction."""
        rows = await connection.execute(select(identity_keys).order_by(identity_keys.c.created_at, identity_keys.c.id))
        return [IdentityKeyRow(**row) for row in rows.mappings().all()]

    async def insert(self, connection: Transaction, row: IdentityKeyRow) -> None:
        await connection.execute(identity_keys.insert().values(**asdict(row)))

    async def note(self, connection: Transaction, key_id: str, **values: float) -> None:
        """Set its times."""
        await connection.execute(update(identity_keys).where(identity_keys.c.id == key_id).values(**values))

    async def forget(self, connection: Transaction, before: float) -> None:
        """Delete those that nobody needs any more."""
        await connection.execute(delete(identity_keys).where(identity_keys.c.gone_at <= before))
