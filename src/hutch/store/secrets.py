"""Secrets of organisations, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import delete, func, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.tables import sandboxes, secrets


@dataclass(frozen=True)
class SecretRow:
    """One secret. Times are Unix seconds."""

    org: str
    name: str
    hosts: list[str]
    places: list[str]
    sealed: bytes
    created_at: float
    updated_at: float


class Secrets:
    """The `secrets` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: SecretRow, most: int) -> SecretRow | None:
        """Put it in the place of what has its name, whose `created_at` stays; the row as it is then. None when the
        organisation has `most` of them already."""
        key = (secrets.c.org == row.org) & (secrets.c.name == row.name)
        async with self._database.write() as connection:
            known = (await connection.execute(select(secrets).where(key))).mappings().one_or_none()
            if known is not None:
                row = SecretRow(**asdict(row) | {"created_at": known["created_at"]})
                await connection.execute(update(secrets).where(key).values(**asdict(row)))
                await audit.append(connection, _event(row, "replaced"))
                return row
            count = select(func.count()).select_from(secrets).where(secrets.c.org == row.org)
            if (await connection.execute(count)).scalar_one() >= most:
                return None
            await connection.execute(secrets.insert().values(**asdict(row)))
            await audit.append(connection, _event(row, "set"))
        return row

    async def all(self, org: str) -> list[SecretRow]:
        """The organisation's, by name."""
        return await self._select(secrets.c.org == org)

    async def some(self, org: str, names: Sequence[str]) -> list[SecretRow]:
        """Those of these names that there are."""
        return await self._select((secrets.c.org == org) & secrets.c.name.in_(names))

    async def everything(self) -> list[SecretRow]:
        """Those of all organisations."""
        return await self._select(secrets.c.org.is_not(None))

    async def delete(self, org: str, name: str) -> bool:
        """Whether there was one."""
        statement = delete(secrets).where(secrets.c.org == org, secrets.c.name == name)
        async with self._database.write() as connection:
            there = bool((await connection.execute(statement)).rowcount)
            if there:
                await audit.append(connection, audit.Event(org, "secret", name, "deleted"))
            return there

    async def reseal(self, connection: Transaction, row: SecretRow, sealed: bytes) -> None:
        """The same value, sealed anew, unless it was set meanwhile."""
        statement = update(secrets).where(
            secrets.c.org == row.org, secrets.c.name == row.name, secrets.c.sealed == row.sealed
        )
        await connection.execute(statement.values(sealed=sealed))

    async def reseal_grant(self, connection: Transaction, sandbox_id: str, before: bytes, sealed: bytes | None) -> None:
        """The same for what is kept of a sandbox."""
        same = (sandboxes.c.id == sandbox_id) & (sandboxes.c.sealed_secrets == before)
        await connection.execute(update(sandboxes).where(same).values(sealed_secrets=sealed))

    async def grants(self) -> list[tuple[str, bytes, bool]]:
        """What is kept of each sandbox that has secrets, and whether it has ended."""
        statement = select(sandboxes.c.id, sandboxes.c.sealed_secrets, sandboxes.c.ended_at)
        async with self._database.read() as connection:
            rows = await connection.execute(statement.where(sandboxes.c.sealed_secrets.is_not(None)))
        return [(row.id, row.sealed_secrets, row.ended_at is not None) for row in rows.all()]

    async def _select(self, condition: object) -> list[SecretRow]:
        statement = select(secrets).where(condition).order_by(secrets.c.org, secrets.c.name)  # type: ignore[arg-type]
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [SecretRow(**row) for row in rows]


def _event(row: SecretRow, outcome: str) -> audit.Event:
    return audit.Event(row.org, "secret", row.name, outcome, {"hosts": row.hosts, "places": row.places})
