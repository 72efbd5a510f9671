"""However many sandboxes take all that they get, each other one has its part."""

from __future__ import annotations

import pytest

from hutch.shares import Shares


@pytest.mark.parametrize("greedy", [1, 10, 100, 199])
def test_who_comes_last_has_its_part(greedy: int) -> None:
    shares = Shares(2000, 100, range(200))
    for number in range(greedy):
        while shares.take(str(number)):
            pass
    assert sum(shares.of(str(number)) for number in range(greedy)) <= 2000
    for number in range(greedy, 200):
        assert shares.take(str(number), shares.own)
    assert shares.own == 5


def test_nobody_has_more_than_there_is_for_one_and_all_comes_back() -> None:
    shares = Shares(1280, 300, [])
    assert shares.take("a", 300)
    assert not shares.take("a")
    assert shares.take("b", 300)
    assert not shares.take("c", 41)
    assert shares.take("c", 40)
    assert shares.take("d", shares.own)
    assert not shares.take("d")
    shares.give("a", 300)
    shares.give("b", 300)
    assert shares.take("d", 295)
    assert shares.take("a", 300)
