"""What who owns a database can do to the audit log, and Hutch itself cannot."""

from __future__ import annotations

from sqlalchemy import text

from hutch.store.engine import Transaction
from hutch.store.store import Store
from hutch.store.tables import audit_heads, audit_records


async def unlock(store: Store) -> None:
    """Take away what keeps the audit log append-only."""
    async with store.database.write() as connection:
        await (_drop if store.database.sqlite else _disable)(connection)


async def _drop(connection: Transaction) -> None:
    found = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'"))
    for name in found.scalars().all():
        await connection.execute(text(f"DROP TRIGGER {name}"))


async def _disable(connection: Transaction) -> None:
    for table in (audit_records, audit_heads):
        await connection.execute(text(f"ALTER TABLE {table.name} DISABLE TRIGGER USER"))
