"""Named policies of organisations."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from sqlalchemy import delete, func, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.tables import policies


@dataclass(frozen=True)
class PolicyRow:
    """One policy. Times are Unix seconds."""

    org: str
    name: str
    allow: list[str]
    revision: str
    created_at: float
    updated_at: float


class Policies:
    """The `policies` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, connection: Transaction, row: PolicyRow, most: int) -> PolicyRow | None:
        """Put it in the place of what has its name, whose `created_at` stays, unless that has the same rules; the row
        as it is then. None when the organisation has `most` of them already."""
        key = (policies.c.org == row.org) & (policies.c.name == row.name)
        known = (await connection.execute(select(policies).where(key))).mappings().one_or_none()
        if known is not None:
            if known["allow"] == row.allow:
                return PolicyRow(**known)
            row = replace(row, created_at=known["created_at"])
            await connection.execute(update(policies).where(key).values(**asdict(row)))
            await audit.append(connection, _event(row, "replaced"))
            return row
        count = select(func.count()).select_from(policies).where(policies.c.org == row.org)
        if (await connection.execute(count)).scalar_one() >= most:
            return None
        await connection.execute(policies.insert().values(**asdict(row)))
        await audit.append(connection, _event(row, "set"))
        return row

    async def all(self, org: str) -> list[PolicyRow]:
        """The organisation's, by name."""
        async with self._database.read() as connection:
            return await self.all_in(connection, org)

    async def all_in(self, connection: Transaction, org: str) -> list[PolicyRow]:
        """`all` inside a transaction."""
        statement = select(policies).where(policies.c.org == org).order_by(policies.c.name)
        return [PolicyRow(**row) for row in (await connection.execute(statement)).mappings().all()]

    async def delete(self, connection: Transaction, org: str, name: str) -> bool:
        """Whether there was one."""
        statement = delete(policies).where(policies.c.org == org, policies.c.name == name)
        found = bool((await connection.execute(statement)).rowcount)
        if found:
            await audit.append(connection, audit.Event(org, "policy", name, "deleted"))
        return found


def _event(row: PolicyRow, outcome: str) -> audit.Event:
    return audit.Event(row.org, "policy", row.name, outcome, {"allow": row.allow})
