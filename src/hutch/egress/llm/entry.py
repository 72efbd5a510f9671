"""One call in the books."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hutch.egress.llm.figures import NONE, Figures
from hutch.egress.llm.prices import Tokens
from hutch.egress.llm.purse import NOTHING, Cost, Purse

if TYPE_CHECKING:
    from hutch.egress.llm.organisation import Organisation


@dataclass(eq=False)
class Entry:
    """One call: what it has added to the total so far, and how much it may come to."""

    asked_model: str | None = None
    """What the guest has asked for: gives the price where the provider answers with a name that has none."""
    model: str | None = None
    """What the provider says has answered."""
    tokens: Tokens = field(default_factory=Tokens)
    figures: Figures = NONE
    unsaid: Cost = NOTHING
    """What it is thought to have cost beside that, as long as the provider has not told what went in."""
    most: Cost = NOTHING
    """The most that it may come to, as the ledger knows."""
    stake: Cost = NOTHING
    """What other calls may not use of the budgets."""
    watched: bool = False
    """A stream, which ends where a budget ends."""
    purses: tuple[Purse, ...] = ()
    org: Organisation | None = None
    """Who pays, whatever becomes of the sandbox's grant meanwhile."""

    @property
    def cost(self) -> Cost:
        """What it has come to."""
        return Cost(self.figures.usd, self.figures.tokens)

    @property
    def still_open(self) -> Cost:
        """What it may cost beyond what it has come to."""
        return self.most.beyond(self.cost)


def open_figures(entries: Iterable[Entry]) -> Figures:
    """What calls under way may cost beyond what they have come to; as output, where it is not known what it will be."""
    costs = [entry.still_open for entry in entries]
    return Figures(usd=sum(cost.usd for cost in costs), output_tokens=sum(cost.tokens for cost in costs))
