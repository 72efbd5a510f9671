"""Budgets: a warning at 80 % of a part, the end at 100 %; each is said once."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from hutch.control.context import Context, event
from hutch.model import Budget, LlmUsage
from hutch.store.engine import Transaction
from hutch.store.tasks import TaskRow

Part = Literal["run_time", "llm_usd", "llm_tokens"]
OrgPart = Literal["org_day_usd", "org_day_tokens", "org_month_usd", "org_month_tokens"]
_WARN_AT = 0.8
_UNITS = {
    "run_time": "s of run time",
    "llm_usd": "dollars",
    "llm_tokens": "tokens",
    "org_day_usd": "dollars a day of the organisation",
    "org_day_tokens": "tokens a day of the organisation",
    "org_month_usd": "dollars a month of the organisation",
    "org_month_tokens": "tokens a month of the organisation",
}


@dataclass(frozen=True)
class Alarm:
    """Something to say about one part of a budget."""

    part: Part | OrgPart
    level: Literal["warning", "exceeded"]
    used: float
    limit: float

    @property
    def mark(self) -> str:
        """How the task's row remembers that it was said."""
        return f"{self.part}:{self.level}"


def assess(
    budget: Budget, *, run_time: float | None = None, llm: LlmUsage | None = None, said: Collection[str] = ()
) -> list[Alarm]:
    """What is new to say. A part of which nothing is known now is left out. What passes both marks in one step is told
    both, so that a warning always comes before the end."""
    used: dict[Part, float | None] = {
        "run_time": run_time,
        "llm_usd": llm.usd if llm is not None else None,
        "llm_tokens": llm.tokens if llm is not None else None,
    }
    alarms = []
    for part, amount in used.items():
        limit = getattr(budget, part)
        if limit is None or amount is None:
            continue
        if amount >= _WARN_AT * limit:
            alarms.append(Alarm(part, "warning", amount, limit))
        if amount >= limit:
            alarms.append(Alarm(part, "exceeded", amount, limit))
    return [alarm for alarm in alarms if alarm.mark not in said]


def next_look(budget: Budget, run_time: float) -> float:
    """Seconds until the run time next reaches a mark."""
    if budget.run_time is None:
        return math.inf
    warning = _WARN_AT * budget.run_time
    return max(0.01, (warning if run_time < warning else budget.run_time) - run_time)


async def sound(context: Context, connection: Transaction, task: TaskRow, alarms: list[Alarm]) -> bool:
    """Write the alarms as events, and have the agent stopped for the first that is exceeded. `task` must be locked by
    this transaction. Whether the task now has to stop."""
    store = context.store
    alarms = [alarm for alarm in alarms if alarm.mark not in task.warned]
    if not alarms or task.ended_at is not None:
        return False
    await store.events.append(
        connection,
        task.id,
        [event("budget", part=a.part, level=a.level, used=a.used, limit=a.limit) for a in alarms],
    )
    await store.tasks.note(connection, task.id, warned=[*task.warned, *(alarm.mark for alarm in alarms)])
    exceeded = [alarm for alarm in alarms if alarm.level == "exceeded"]
    if exceeded:
        await store.tasks.ask_to_stop(connection, task.id, stop_for(exceeded[0]))
    return bool(exceeded)


def stop_for(alarm: Alarm) -> dict[str, str]:
    """Why the agent is stopped."""
    unit = _UNITS[alarm.part]
    detail = f"the budget of {alarm.limit:g} {unit} is used up"
    return {"state": "budget_exceeded", "error": "budget_exceeded", "detail": detail}
