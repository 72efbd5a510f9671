"""Budgets that several calls draw on at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hutch.egress.llm.purse import NOTHING, Cost, Purse

PARTS = ("llm_usd", "llm_tokens")


def test_the_last_cent_is_taken_once() -> None:
    purse = Purse(PARTS, max_usd=1.0, spent=Cost(0.99, 0))
    assert purse.has_room(Cost(0.5, 10)), "alone, though estimates are high"
    purse.enter(Cost(0.5, 10))
    assert not purse.has_room(Cost(0.001, 1))
    purse.move(Cost(0.005, 5), Cost(-0.4999, -5))
    assert purse.has_room(Cost(0.004, 1)) and purse.exceeded() is None
    purse.leave(Cost(0.0001, 5))
    assert purse.staked == NOTHING


class Calls(RuleBasedStateMachine):
    """Calls come, spend and go: whole ones up to their stakes, streams piece by piece until they are cut."""

    limit, piece = 1000, 50

    def __init__(self) -> None:
        super().__init__()
        self.purse = Purse(PARTS, max_tokens=self.limit)
        self.calls: list[list[int]] = []
        """[spent, most] of each; `most` is 0 for a stream, which stakes nothing."""
        self.streams = 0
        self.alone = 0
        """The most that was let in beyond what was left, as it was alone."""

    @rule(most=st.integers(0, 600))
    def come(self, most: int) -> None:
        if self.purse.exceeded() is None and self.purse.has_room(Cost(0, most)):
            if not self.calls:
                self.alone = max(self.alone, self.purse.spent.tokens + most - self.limit)
            self.streams += most == 0
            self.purse.enter(Cost(0, most))
            self.calls.append([0, most])

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 10**6), amount=st.integers(1, 300))
    def spend(self, which: int, amount: int) -> None:
        call = self.calls[which % len(self.calls)]
        if call[1]:
            amount = min(amount, call[1] - call[0])
            call[0] += amount
            return self.purse.move(Cost(0, amount), Cost(0, -amount))
        self.purse.move(Cost(0, min(amount, self.piece)), NOTHING)
        if self.purse.exceeded() is not None or self.purse.is_others(NOTHING):
            self.end(call)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 10**6))
    def go(self, which: int) -> None:
        self.end(self.calls[which % len(self.calls)])

    def end(self, call: list[int]) -> None:
        self.purse.leave(Cost(0, max(0, call[1] - call[0])))
        self.calls.remove(call)

    @invariant()
    def little_more_is_spent_than_the_limit(self) -> None:
        assert self.purse.spent.tokens <= self.limit + max(0, self.alone) + self.streams * self.piece
        assert self.purse.staked.tokens == sum(max(0, most - spent) for spent, most in self.calls)


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(usd=st.floats(0, 10), tokens=st.integers(0, 100))
def test_without_limits_there_is_always_room(usd: float, tokens: int) -> None:
    purse = Purse(PARTS, calls=3, spent=Cost(usd, tokens), staked=Cost(usd, tokens))
    assert purse.has_room(Cost(usd, tokens)) and not purse.is_others(NOTHING) and purse.exceeded() is None
