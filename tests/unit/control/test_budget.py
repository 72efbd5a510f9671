"""80 % warns, 100 % stops, each once."""

from __future__ import annotations

import math

import pytest

from hutch.control.budget import assess, next_look, stop_for
from hutch.model import Budget, LlmUsage


@pytest.mark.parametrize(
    ("used", "levels"),
    [(0, []), (7.9, []), (8, ["warning"]), (9.9, ["warning"]), (10, ["warning", "exceeded"])],
)
def test_run_time(used: float, levels: list[str]) -> None:
    assert [alarm.level for alarm in assess(Budget(run_time=10), run_time=used)] == levels


def test_parts_are_judged_apart_and_unset_ones_never() -> None:
    budget = Budget(llm_usd=1.0, llm_tokens=100)
    alarms = assess(budget, run_time=1e9, llm=LlmUsage(input_tokens=60, output_tokens=25, usd=1.2))
    assert [(alarm.part, alarm.level) for alarm in alarms] == [
        ("llm_usd", "warning"),
        ("llm_usd", "exceeded"),
        ("llm_tokens", "warning"),
    ]
    assert assess(Budget(), run_time=1e9, llm=LlmUsage(usd=1e9)) == []


def test_what_was_said_is_not_said_again() -> None:
    (alarm,) = assess(Budget(run_time=10), run_time=8)
    assert assess(Budget(run_time=10), run_time=9, said=[alarm.mark]) == []
    assert [a.level for a in assess(Budget(run_time=10), run_time=10, said=[alarm.mark])] == ["exceeded"]


def test_the_next_look_is_at_the_next_mark() -> None:
    assert next_look(Budget(run_time=10), 0) == 8
    assert next_look(Budget(run_time=10), 9) == 1
    assert next_look(Budget(run_time=10), 11) > 0
    assert next_look(Budget(), 0) == math.inf


def test_the_reason_is_for_a_person() -> None:
    _, alarm = assess(Budget(llm_usd=0.5), llm=LlmUsage(usd=0.6))
    assert stop_for(alarm)["detail"] == "the budget of 0.5 dollars is used up"
