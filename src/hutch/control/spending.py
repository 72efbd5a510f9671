"""What organisations may spend on model providers, and have spent. The nodes count and enforce; this is where it is set
and put together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import reduce

import structlog

from hutch.control.context import Context
from hutch.errors import HutchError
from hutch.fleet import Node
from hutch.model import LlmUsage, OrgBudget, OrgSpending
from hutch.model.budget import plus

log = structlog.get_logger("hutch.control")


class Spending:
    """For all organisations."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def of(self, org: str) -> OrgSpending:
        """Budget and spending of an organisation."""
        now = datetime.now(UTC)
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        month = day.replace(day=1)
        found = await self._context.store.spending.since(org, month.date().isoformat())
        days = [(at, LlmUsage.model_validate(usage)) for at, usage in found]
        budgets = await self._context.store.spending.budgets()
        return OrgSpending(
            budget=OrgBudget.model_validate(budgets.get(org, {})),
            day=_sum([usage for at, usage in days if at == day.date().isoformat()]),
            month=_sum([usage for _, usage in days]),
            day_ends=day + timedelta(days=1),
            month_ends=(month + timedelta(days=32)).replace(day=1),
        )

    async def set(self, org: str, budget: OrgBudget) -> OrgSpending:
        """Put a budget in force, on every node that answers at once, and on others when they are back."""
        await self._context.store.spending.set_budget(org, budget.model_dump(mode="json", exclude_none=True))
        for node in self._context.fleet.nodes():
            try:
                await self.tell(node)
            except HutchError as error:
                log.warning("budgets not given to the node yet", node=node.name, error=str(error))
        return await self.of(org)

    async def tell(self, node: Node) -> None:
        """Give a node the budgets of all. Raises `NodeUnavailable`."""
        found = await self._context.store.spending.budgets()
        await node.set_llm_budgets({org: OrgBudget.model_validate(budget) for org, budget in found.items()})


def _sum(usages: list[LlmUsage]) -> LlmUsage:
    return reduce(plus, usages, LlmUsage())
