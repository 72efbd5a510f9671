"""What steps of template builds have led to, so that they need not be run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, select

from hutch.store.engine import Database
from hutch.store.tables import template_layers


@dataclass(frozen=True)
class LayerRow:
    """After the steps that `key` is the hash of, there was this layer, and this context for the next one."""

    org: str
    key: str
    layer: str
    context: dict[str, Any]
    created_at: float


class TemplateLayers:
    """The `template_layers` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: LayerRow) -> None:
        """In place of what the key meant."""
        mine = (template_layers.c.org == row.org, template_layers.c.key == row.key)
        async with self._database.write() as connection:
            await connection.execute(delete(template_layers).where(*mine))
            await connection.execute(template_layers.insert().values(**asdict(row)))

    async def find(self, org: str, keys: Sequence[str]) -> dict[str, LayerRow]:
        """Those that are known, by their keys."""
        statement = select(template_layers).where(template_layers.c.org == org, template_layers.c.key.in_(keys))
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return {row["key"]: LayerRow(**row) for row in rows}

    async def forget(self, org: str, key: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                delete(template_layers).where(template_layers.c.org == org, template_layers.c.key == key)
            )

    async def forget_before(self, before: float) -> None:
        """Those made before then, of every organisation."""
        async with self._database.write() as connection:
            await connection.execute(delete(template_layers).where(template_layers.c.created_at < before))
