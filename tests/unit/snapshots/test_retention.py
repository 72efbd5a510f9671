"""What the rule keeps."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.model import SnapshotReason, SnapshotRecord
from hutch.settings import Settings
from hutch.snapshots import Retention
from hutch.snapshots.retention import FORKING_MOST, expired
from tests.unit.snapshots.make import NOON, record

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COUNTED = [SnapshotReason.MANUAL, SnapshotReason.PAUSE, SnapshotReason.FORK]


def ids(records: list[SnapshotRecord]) -> list[str]:
    return [one.id for one in records]


def gone(sandbox: str) -> bool:
    """Whether it lives: no."""
    return False


def test_the_newest_of_each_sandbox_are_kept() -> None:
    a = [record(minute, sandbox_id="sbx_a") for minute in range(5)]
    b = [record(minute, sandbox_id="sbx_b") for minute in range(2)]
    assert expired([*reversed(a), *b], Retention(last=2), NOON) == ids(a[:3])
    assert expired(a, Retention(last=5), NOON) == []
    assert len(expired(a, Retention(last=0), NOON)) == 5


def test_pauses_forks_and_checkpoints_push_out_nothing_that_somebody_took() -> None:
    taken = [record(minute) for minute in range(3)]
    others = {
        reason: [record(10 + minute, reason=reason) for minute in range(10)]
        for reason in (SnapshotReason.PAUSE, SnapshotReason.FORK, SnapshotReason.CHECKPOINT)
    }
    everything = [*taken, *(each for some in others.values() for each in some)]
    found = set(expired(everything, Retention(last=3, checkpoints=4), NOON + 2 * DAY))
    assert found == {one.id for reason, some in others.items() for one in some[: 6 if reason == "checkpoint" else 7]}


def test_named_ones_take_nobodys_place() -> None:
    plain = [record(minute) for minute in range(3)]
    named = [record(10 + minute, name="good") for minute in range(10)]
    assert expired(plain + named, Retention(last=2), NOON) == ids(plain[:1])


def test_what_was_imported_is_kept_however_many_there_are() -> None:
    imported = [record(minute, sandbox_id="", org=f"org_{minute % 3}") for minute in range(10)]
    assert expired(imported, Retention(last=1, orphan_seconds=0), NOON + 1000 * DAY, lives=gone) == []


def test_safety_snapshots_are_kept_for_their_time_and_take_nobodys_place() -> None:
    safety = [record(minute, reason=SnapshotReason.SAFETY) for minute in range(10)]
    others = [record(minute) for minute in range(2)]
    rule = Retention(last=2, safety_seconds=3600)
    assert expired(safety + others, rule, NOON + HOUR) == []
    assert expired(safety + others, rule, NOON + HOUR + timedelta(minutes=3, seconds=1)) == ids(safety[:4])


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("pause", 0 * DAY), ("safety", 0 * DAY), ("checkpoint", 0 * DAY), ("fork", DAY), ("manual", 30 * DAY)],
)
def test_of_a_sandbox_that_is_gone_what_a_person_or_a_fork_may_still_want_stays_for_a_time(
    reason: str, kept: timedelta
) -> None:
    one = record(reason=SnapshotReason(reason))
    if kept:
        assert expired([one], Retention(), NOON + kept, lives=gone) == []
    assert expired([one], Retention(), NOON + kept + timedelta(seconds=1), lives=gone) == [one.id]
    assert expired([one], Retention(), NOON + kept + HOUR, frozenset({one.id}), gone) == []
    if reason != "safety":
        assert expired([one], Retention(), NOON + kept + HOUR) == []
    named = one.model_copy(update={"name": "kept"})
    assert expired([named], Retention(), NOON + 100 * DAY, lives=gone) == []


def test_a_fork_that_may_be_under_way_is_not_counted_out() -> None:
    forks = [record(minute, reason=SnapshotReason.FORK) for minute in range(3)]
    assert expired(forks, Retention(last=1), NOON + HOUR) == []
    assert expired(forks, Retention(last=1), NOON + 2 * DAY) == ids(forks[:2])


def test_who_forks_and_deletes_all_day_keeps_no_more_than_others() -> None:
    mine = [record(second / 60, reason=SnapshotReason.FORK, sandbox_id=f"sbx_{second}") for second in range(150)]
    other = record(1, reason=SnapshotReason.FORK, org="org_other")
    assert expired([*mine, other], Retention(), NOON + HOUR, lives=gone) == ids(mine[:-FORKING_MOST])
    assert expired([*mine, other], Retention(), NOON + HOUR) == []  # those that live have what they came from


def test_named_ones_templates_and_those_in_use_are_never_let_go() -> None:
    named, template, used = record(1, name="good"), record(2, reason=SnapshotReason.TEMPLATE), record(3)
    old_safety = record(4, reason=SnapshotReason.SAFETY, name="before the storm")
    everything = [named, template, used, old_safety]
    assert expired(everything, Retention(last=0, safety_seconds=0), NOON + HOUR, frozenset({used.id}), gone) == []


def test_the_rule_is_the_operators() -> None:
    settings = Settings(snapshot_keep=1, snapshot_keep_checkpoints=2, snapshot_keep_safety=3, snapshot_keep_orphans=4)
    assert Retention.of(settings) == Retention(last=1, checkpoints=2, safety_seconds=3, orphan_seconds=4)
    assert Retention.of(Settings()) == Retention()


RECORDS = st.lists(
    st.builds(
        lambda minute, sandbox, reason, name: record(minute, sandbox_id=sandbox, reason=reason, name=name),
        st.integers(0, 100),
        st.sampled_from(["sbx_a", "sbx_b", ""]),
        st.sampled_from(SnapshotReason),
        st.sampled_from([None, None, "name"]),
    ),
    max_size=20,
)


@given(records=RECORDS, last=st.integers(0, 5), minutes=st.integers(0, 4000))
def test_nothing_newer_goes_before_something_older_and_twice_is_once(
    records: list[SnapshotRecord], last: int, minutes: int
) -> None:
    rule, now = Retention(last=last, safety_seconds=1800), NOON + timedelta(minutes=minutes)
    found = set(expired(records, rule, now))
    left = [one for one in records if one.id not in found]
    assert expired(left, rule, now) == []
    for one in records:
        if one.id in found:
            assert one.name is None and one.sandbox_id
            same = [o for o in left if (o.sandbox_id, o.reason, o.name) == (one.sandbox_id, one.reason, None)]
            assert all((o.created_at, o.id) > (one.created_at, one.id) for o in same)
            assert one.reason not in COUNTED or len(same) >= last
