"""Budgets of organisations for model providers, and what was spent, by day."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from hutch.store.engine import Database, Transaction
from hutch.store.tables import llm_budgets, llm_days


class Spending:
    """The tables `llm_budgets` and `llm_days`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def budgets(self) -> dict[str, dict[str, Any]]:
        """Those of all organisations that have one."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(llm_budgets.c.org, llm_budgets.c.budget))
            return {row.org: row.budget for row in rows}

    async def set_budget(self, org: str, budget: dict[str, Any]) -> None:
        """In the place of the one before."""
        values = {"budget": budget, "changed_at": time.time()}
        change = update(llm_budgets).where(llm_budgets.c.org == org).values(values)
        try:
            async with self._database.write() as connection:
                if (await connection.execute(change)).rowcount == 0:
                    await connection.execute(llm_budgets.insert().values(org=org, **values))
        except IntegrityError:  # another caller has just set the first one
            async with self._database.write() as connection:
                await connection.execute(change)

    async def note(self, connection: Transaction, org: str, day: str, node: str, usage: dict[str, Any]) -> None:
        """What went through a node on that day so far. Idempotent."""
        same = (llm_days.c.org == org) & (llm_days.c.day == day) & (llm_days.c.node == node)
        await connection.execute(delete(llm_days).where(same))
        await connection.execute(llm_days.insert().values(org=org, day=day, node=node, usage=usage))

    async def since(self, org: str, day: str) -> list[tuple[str, dict[str, Any]]]:
        """The usage of each day, and node, from that day on."""
        statement = select(llm_days.c.day, llm_days.c.usage).where(llm_days.c.org == org, llm_days.c.day >= day)
        async with self._database.read() as connection:
            return [(row.day, row.usage) for row in await connection.execute(statement)]
