"""How far each node's journal has been applied."""

from __future__ import annotations

from sqlalchemy import select, update

from hutch.store.engine import Database, Transaction
from hutch.store.tables import node_cursor


class NodeCursors:
    """The `node_cursor` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, node: str) -> int:
        """The last entry applied, 0 before the first."""
        async with self._database.read() as connection:
            statement = select(node_cursor.c.seq).where(node_cursor.c.node == node)
            return int((await connection.execute(statement)).scalar_one_or_none() or 0)

    async def advance(self, connection: Transaction, node: str, before: int, after: int) -> bool:
        """Move the cursor if it still stands at `before`; False when another process has moved it."""
        if before == 0:
            known = (await connection.execute(select(node_cursor.c.seq).where(node_cursor.c.node == node))).first()
            if known is None:
                await connection.execute(node_cursor.insert().values(node=node, seq=after))
                return True
        statement = update(node_cursor).where(node_cursor.c.node == node, node_cursor.c.seq == before)
        return (await connection.execute(statement.values(seq=after))).rowcount == 1
