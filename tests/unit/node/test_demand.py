"""How many sandboxes should wait in the warm pool."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hutch.node.demand import BURST, FADES, RECENT, Demand, Wish, allot


def after(*times: float) -> Demand:
    demand = Demand()
    for time in times:
        demand.note(time)
    return demand


def test_nobody_waits_where_nobody_asked() -> None:
    assert Demand().target(1000.0) == 0


def test_one_waits_after_the_first_demand_and_for_some_time() -> None:
    demand = after(100.0)
    assert demand.target(100.0) == demand.target(100.0 + FADES) == 1
    assert demand.target(100.1 + FADES) == 0


def test_as_many_wait_as_were_asked_for_at_once() -> None:
    assert after(*[100.0] * 7, 150.0, 151.0).target(200.0) == 7


def test_what_comes_slowly_needs_only_one() -> None:
    assert after(*(time * (BURST + 1) for time in range(10))).target(10 * (BURST + 1)) == 1


def test_a_burst_is_forgotten_and_the_demand_is_not() -> None:
    demand = after(*[100.0] * 7)
    assert demand.target(100.0 + RECENT) == 7
    assert demand.target(101.0 + RECENT) == 1


def test_each_gets_one_before_anybody_gets_two() -> None:
    wishes = [Wish("a", 5, 10), Wish("b", 5, 10)]
    assert allot(wishes, 30, 100) == {"a": 2, "b": 1}
    assert allot(wishes, 1000, 3) == {"a": 2, "b": 1}


def test_what_does_not_fit_leaves_room_for_what_does() -> None:
    assert allot([Wish("huge", 2, 1000), Wish("small", 2, 10)], 100, 100) == {"huge": 0, "small": 2}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 100)), max_size=5),
    st.integers(0, 500),
    st.integers(-3, 30),
)
def test_nothing_exceeds_its_bound(sizes: list[tuple[int, int]], room_bytes: int, room: int) -> None:
    wishes = [Wish(str(number), target, size) for number, (target, size) in enumerate(sizes)]
    given = allot(wishes, room_bytes, room)
    assert sum(given[wish.template] * wish.bytes_each for wish in wishes) <= room_bytes
    assert sum(given.values()) <= max(0, room)
    assert all(given[wish.template] <= wish.target for wish in wishes)
