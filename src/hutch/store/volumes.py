"""Volumes. Their files are not in the database (`hutch.volumes`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, func, select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import volumes


@dataclass(frozen=True)
class VolumeRow:
    """One volume. Times are Unix seconds."""

    id: str
    org: str
    name: str
    created_at: float
    removed_at: float | None = None


class Volumes:
    """The `volumes` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, row: VolumeRow) -> None:
        """Raises `IntegrityError` when the org has one of this name."""
        await connection.execute(volumes.insert().values(**asdict(row)))

    async def count(self, connection: Transaction, org: str) -> int:
        """How many an org has, those that are being removed too."""
        return int((await connection.execute(select(func.count()).where(volumes.c.org == org))).scalar_one())

    async def get(self, volume_id: str) -> VolumeRow | None:
        """Also one that is being removed."""
        return next(iter(await self._select(volumes.c.id == volume_id)), None)

    async def of(self, org: str) -> list[VolumeRow]:
        """All of an org's, oldest first, those that are being removed too."""
        return await self._select(volumes.c.org == org)

    async def removed(self) -> list[VolumeRow]:
        """Those whose removal has begun."""
        return await self._select(volumes.c.removed_at.is_not(None))

    async def lock(self, connection: Transaction, org: str, names: set[str]) -> dict[str, VolumeRow]:
        """An org's volumes of these names, locked until the end of the transaction."""
        statement = select(volumes).where(
            volumes.c.org == org, volumes.c.name.in_(names), volumes.c.removed_at.is_(None)
        )
        rows = (await connection.execute(statement.with_for_update())).mappings().all()
        return {row["name"]: VolumeRow(**row) for row in rows}

    async def mark_removed(self, connection: Transaction, volume_id: str, now: float) -> None:
        """Its removal begins; its name is free."""
        statement = update(volumes).where(volumes.c.id == volume_id).values(removed_at=now, name=volume_id)
        await connection.execute(statement)

    async def forget(self, volume_id: str) -> None:
        """Delete the record."""
        async with self._database.write() as connection:
            await connection.execute(delete(volumes).where(volumes.c.id == volume_id))

    async def _select(self, condition: object) -> list[VolumeRow]:
        statement = select(volumes).where(condition).order_by(volumes.c.created_at, volumes.c.id)  # type: ignore[arg-type]
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [VolumeRow(**row) for row in rows]
