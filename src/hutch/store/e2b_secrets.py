"""Secrets that were made through E2B's API, sealed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.pages import read_cursor
from hutch.store.tables import e2b_secrets


@dataclass(frozen=True)
class E2bSecretRow:
    """One secret. Times are Unix seconds; `version` counts its values."""

    id: str
    org: str
    name: str
    version: int
    sealed: bytes
    created_at: float
    updated_at: float
    metadata: dict[str, str] = field(default_factory=dict)


class E2bSecrets:
    """The `e2b_secrets` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, row: E2bSecretRow, most: int) -> bool:
        """False when the organisation has `most` of them already. Raises `IntegrityError` when it has one of this
        name."""
        count = select(func.count()).select_from(e2b_secrets).where(e2b_secrets.c.org == row.org)
        async with self._database.write() as connection:
            if (await connection.execute(count)).scalar_one() >= most:
                return False
            await connection.execute(e2b_secrets.insert().values(**asdict(row)))
            await audit.append(connection, _event(row, "set"))
        return True

    async def find(self, org: str, wanted: str) -> E2bSecretRow | None:
        """By its id or its name."""
        either = or_(e2b_secrets.c.id == wanted, e2b_secrets.c.name == wanted)
        return next(iter(await self._select((e2b_secrets.c.org == org) & either)), None)

    async def named(self, org: str, names: Collection[str]) -> list[E2bSecretRow]:
        """Those of these names that there are."""
        return await self._select((e2b_secrets.c.org == org) & e2b_secrets.c.name.in_(names))

    async def page(self, org: str, limit: int, cursor: str | None) -> list[E2bSecretRow]:
        """The oldest first. Raises `InvalidRequest` for a cursor that we never made."""
        condition: Any = e2b_secrets.c.org == org
        if cursor is not None:
            at, last = read_cursor(cursor)
            created = e2b_secrets.c.created_at
            condition &= or_(created > at, and_(created == at, e2b_secrets.c.id > last))
        return await self._select(condition, limit)

    async def everything(self) -> list[E2bSecretRow]:
        """Those of all organisations."""
        return await self._select(e2b_secrets.c.org.is_not(None))

    async def replace(self, id: str, sealed: bytes, metadata: dict[str, str] | None, now: float) -> E2bSecretRow | None:
        """Its next version; `metadata` None: that stays. None when it is gone."""
        async with self._database.write() as connection:
            found = await connection.execute(select(e2b_secrets).where(e2b_secrets.c.id == id).with_for_update())
            known = found.mappings().one_or_none()
            if known is None:
                return None
            row = replace(E2bSecretRow(**known), version=known["version"] + 1, sealed=sealed, updated_at=now)
            if metadata is not None:
                row = replace(row, metadata=metadata)
            await connection.execute(update(e2b_secrets).where(e2b_secrets.c.id == id).values(**asdict(row)))
            await audit.append(connection, _event(row, "replaced"))
        return row

    async def delete(self, row: E2bSecretRow) -> bool:
        """Whether it was there."""
        async with self._database.write() as connection:
            there = bool((await connection.execute(delete(e2b_secrets).where(e2b_secrets.c.id == row.id))).rowcount)
            if there:
                await audit.append(connection, _event(row, "deleted"))
        return there

    async def reseal(self, connection: Transaction, row: E2bSecretRow, sealed: bytes) -> None:
        """The same value, sealed anew, unless it was replaced meanwhile."""
        same = (e2b_secrets.c.id == row.id) & (e2b_secrets.c.sealed == row.sealed)
        await connection.execute(update(e2b_secrets).where(same).values(sealed=sealed))

    async def _select(self, condition: Any, limit: int | None = None) -> list[E2bSecretRow]:
        statement = select(e2b_secrets).where(condition).order_by(e2b_secrets.c.created_at, e2b_secrets.c.id)
        async with self._database.read() as connection:
            rows = (await connection.execute(statement.limit(limit))).mappings().all()
        return [E2bSecretRow(**row) for row in rows]


def _event(row: E2bSecretRow, outcome: str) -> audit.Event:
    return audit.Event(row.org, "secret", row.id, outcome, {"name": row.name, "version": row.version})
