"""API keys. Only their hash is stored; making and checking them is `identity`'s."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.tables import keys


@dataclass(frozen=True)
class KeyRecord:
    """One API key. Times are Unix seconds."""

    id: str
    org: str
    name: str
    prefix: str
    """The first characters of the key, shown to people."""
    hash: str
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None
    revoked_at: float | None = None


class Keys:
    """The `keys` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: KeyRecord) -> None:
        async with self._database.write() as connection:
            await self.add_in(connection, record)

    async def add_in(self, connection: Transaction, record: KeyRecord) -> None:
        """`add` inside a transaction."""
        await connection.execute(keys.insert().values(**record.__dict__))
        await audit.append(connection, audit.Event(record.org, "key", record.id, "created", {"name": record.name}))

    async def get(self, key_id: str) -> KeyRecord | None:
        rows = await self._select(keys.c.id == key_id)
        return rows[0] if rows else None

    async def of_org(self, org: str) -> list[KeyRecord]:
        return await self._select(keys.c.org == org)

    async def count(self) -> int:
        """How many keys there are in all orgs, revoked ones too."""
        async with self._database.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(keys))).scalar_one())

    async def touch(self, key_id: str, when: float) -> None:
        """Note that the key was used. Call it rarely (once a minute a key): it is a write."""
        async with self._database.write() as connection:
            await connection.execute(update(keys).where(keys.c.id == key_id).values(last_used_at=when))

    async def revoke(self, key_id: str, when: float) -> bool:
        """Whether the key was live before."""
        statement = update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=when)
        async with self._database.write() as connection:
            org = (await connection.execute(statement.returning(keys.c.org))).scalar_one_or_none()
            if org is not None:
                await audit.append(connection, audit.Event(org, "key", key_id, "revoked"))
            return org is not None

    async def _select(self, *where: object) -> list[KeyRecord]:
        statement = select(keys).where(*where).order_by(keys.c.created_at)  # type: ignore[arg-type]
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [KeyRecord(**row) for row in rows]
