"""`Store`: the database and its repositories."""

from __future__ import annotations

from hutch.store.engine import Database
from hutch.store.keys import Keys


class Store:
    """Open it with `await Store.open(url)`; close it with `close`."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.keys = Keys(database)

    @classmethod
    async def open(cls, url: str) -> Store:
        """Connect and bring the schema up to date."""
        raise NotImplementedError

    async def close(self) -> None:
        await self.database.close()
