"""What one organisation has used on this node, by day, and its budgets for the day and the month."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from hutch.egress.llm.entry import Entry, open_figures
from hutch.egress.llm.figures import NONE, Figures
from hutch.egress.llm.ledger import Bound
from hutch.egress.llm.purse import Cost, Purse
from hutch.model import LlmUsage, OrgBudget
from hutch.model.budget import highest

DAY, MONTH = ("org_day_usd", "org_day_tokens"), ("org_month_usd", "org_month_tokens")


def today() -> str:
    """The day in UTC, as the ledger and the journal name it."""
    return datetime.now(UTC).date().isoformat()


class Organisation:
    """Its purses are those of all its sandboxes. Only the event loop's thread touches it."""

    def __init__(self, org: str, now: Callable[[], str] = today) -> None:
        self.org = org
        self.day, self.month = Purse(DAY), Purse(MONTH)
        self._now = now
        self._today = now()
        self._days: dict[str, Figures] = {}
        self.open: set[Entry] = set()
        """The calls under way."""
        self.unwritten: set[str] = set()
        """Days whose figures have changed since they were journaled."""

    def allow(self, budget: OrgBudget | None) -> None:
        """Puts a budget in force, or none."""
        found = budget or OrgBudget()
        self.day.max_usd, self.day.max_tokens = found.day_usd, found.day_tokens
        self.month.max_usd, self.month.max_tokens = found.month_usd, found.month_tokens

    @property
    def in_dollars(self) -> bool:
        """Whether a limit in dollars is in force: then every model has to have a price."""
        return self.day.max_usd is not None or self.month.max_usd is not None

    def restore(self, day: str, usage: LlmUsage) -> None:
        """Starts from what an earlier gateway has left."""
        self._days[day] = Figures.of(highest(usage, self.usage(day)))
        self.unwritten.add(day)
        self._refill()

    def turn(self) -> None:
        """Begins a new day, if there is one."""
        if self._now() != self._today:
            self.unwritten.add(self._today)
            self._today = self._now()
            self._refill()

    def add(self, more: Figures) -> None:
        """A call of one of its sandboxes has used so much more; its purses know of it already."""
        self._days[self._today] = self._days.get(self._today, NONE).plus(more)
        self.unwritten.add(self._today)

    def usage(self, day: str) -> LlmUsage:
        """What was used on that day."""
        return self._days.get(day, NONE).usage()

    def bounds(self, days: Iterable[str] = ()) -> list[Bound]:
        """What it may have used at most, when all calls under way end badly, today and on these days."""
        past = {day: self.usage(day) for day in days}
        today = self._days.get(self._today, NONE)
        most = past | {self._today: today.plus(open_figures(self.open)).usage()}
        return [Bound(self.org, day, usage) for day, usage in most.items()]

    def _refill(self) -> None:
        """The purses hold what their days say."""
        month = [usage for day, usage in self._days.items() if day[:7] == self._today[:7]]
        current = self._days.get(self._today, NONE)
        self.day.spent = Cost(current.usd, current.tokens)
        self.month.spent = Cost(sum(usage.usd for usage in month), sum(usage.tokens for usage in month))
        for day in [day for day in self._days if day[:7] < self._today[:7] and day not in self.unwritten]:
            del self._days[day]
