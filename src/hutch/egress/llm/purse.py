"""A budget that several calls draw on at once: what is spent, and what those under way may still spend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call, or of a part of one."""

    usd: float = 0.0
    tokens: int = 0

    def beyond(self, other: Cost) -> Cost:
        """What this is more than `other`."""
        return Cost(max(0.0, self.usd - other.usd), max(0, self.tokens - other.tokens))

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.usd + other.usd, self.tokens + other.tokens)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.usd - other.usd, self.tokens - other.tokens)


NOTHING = Cost()


@dataclass
class Purse:
    """What it holds is not spent twice. A call is let in only while there is all that it may cost and all that those
    under way have staked: a call whose answer comes at once, the most that it may cost; a stream, which is watched and
    cut, what is thought to go in, until that is told. So no more is overspent than the last piece of each stream, and
    what one call costs that was alone when it was let in."""

    parts: tuple[str, str]
    """Names of its limits in dollars and in tokens."""
    max_usd: float | None = None
    max_tokens: int | None = None
    spent: Cost = NOTHING
    staked: Cost = NOTHING
    """What the calls under way may use beyond what is spent."""
    calls: int = 0

    def exceeded(self) -> dict[str, Any] | None:
        """The limit that is used up, with the figures; None while something is left."""
        if self.max_usd is not None and self.spent.usd >= self.max_usd:
            return {"part": self.parts[0], "used": round(self.spent.usd, 6), "limit": self.max_usd}
        if self.max_tokens is not None and self.spent.tokens >= self.max_tokens:
            return {"part": self.parts[1], "used": self.spent.tokens, "limit": self.max_tokens}
        return None

    def has_room(self, most: Cost) -> bool:
        """Whether a call may begin that uses so much at most. One that is alone may, whatever it costs: else the last
        dollar could never be spent, as estimates are high."""
        return self.calls == 0 or self._fits(self.spent + self.staked + most)

    def is_others(self, own: Cost) -> bool:
        """Whether all that is left is staked by other calls than the one whose stake this is."""
        return not self._fits(self.spent + self.staked - own)

    def enter(self, stake: Cost) -> None:
        """A call begins, and may use so much."""
        self.calls += 1
        self.staked += stake

    def leave(self, stake: Cost) -> None:
        """It has ended; its stake was this much."""
        self.calls -= 1
        self.staked = self.staked - stake if self.calls else Cost()

    def move(self, spent: Cost, staked: Cost) -> None:
        """A call has spent so much more, and its stake has changed by so much."""
        self.spent += spent
        self.staked += staked

    def _fits(self, total: Cost) -> bool:
        usd, tokens = self.max_usd, self.max_tokens
        return (usd is None or total.usd <= usd) and (tokens is None or total.tokens <= tokens)
