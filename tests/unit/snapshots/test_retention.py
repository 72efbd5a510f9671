"""What the rule keeps."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from hutch.model import SnapshotReason, SnapshotRecord
from hutch.snapshots import Retention
from hutch.snapshots.retention import expired
from tests.unit.snapshots.make import NOON, record

HOUR = timedelta(hours=1)


def test_the_newest_of_each_sandbox_are_kept() -> None:
    a = [record(minute, sandbox_id="sbx_a") for minute in range(5)]
    b = [record(minute, sandbox_id="sbx_b") for minute in range(2)]
    assert expired([*reversed(a), *b], Retention(last=2), NOON) == [one.id for one in a[:3]]
    assert expired(a, Retention(last=5), NOON) == []
    assert len(expired(a, Retention(last=0), NOON)) == 5


def test_safety_snapshots_are_kept_for_their_time_and_take_nobodys_place() -> None:
    safety = [record(minute, reason=SnapshotReason.SAFETY) for minute in range(10)]
    others = [record(minute) for minute in range(2)]
    rule = Retention(last=2, safety_seconds=3600)
    assert expired(safety + others, rule, NOON + HOUR) == []
    assert expired(safety + others, rule, NOON + HOUR + timedelta(minutes=3, seconds=1)) == [
        one.id for one in safety[:4]
    ]


def test_checkpoints_are_counted_apart() -> None:
    checkpoints = [record(minute, reason=SnapshotReason.CHECKPOINT) for minute in range(10)]
    others = [record(minute) for minute in range(3)]
    assert expired(checkpoints + others, Retention(last=3, checkpoints=4), NOON) == [one.id for one in checkpoints[:6]]


def test_named_ones_templates_and_those_in_use_are_never_let_go() -> None:
    named, template, used = record(1, name="good"), record(2, reason=SnapshotReason.TEMPLATE), record(3)
    old_safety = record(4, reason=SnapshotReason.SAFETY, name="before the storm")
    everything = [named, template, used, old_safety]
    assert expired(everything, Retention(last=0, safety_seconds=0), NOON + HOUR, frozenset({used.id})) == []


RECORDS = st.lists(
    st.builds(
        lambda minute, sandbox, reason, name: record(minute, sandbox_id=sandbox, reason=reason, name=name),
        st.integers(0, 100),
        st.sampled_from(["sbx_a", "sbx_b"]),
        st.sampled_from(SnapshotReason),
        st.sampled_from([None, None, "name"]),
    ),
    max_size=20,
)


@given(records=RECORDS, last=st.integers(0, 5), minutes=st.integers(0, 200))
def test_nothing_newer_goes_before_something_older_and_twice_is_once(
    records: list[SnapshotRecord], last: int, minutes: int
) -> None:
    rule, now = Retention(last=last, safety_seconds=1800), NOON + timedelta(minutes=minutes)
    gone = set(expired(records, rule, now))
    left = [one for one in records if one.id not in gone]
    assert expired(left, rule, now) == []
    for one in records:
        if one.id in gone:
            assert one.name is None
            newer = [o for o in records if o.sandbox_id == one.sandbox_id and o.reason is not SnapshotReason.SAFETY]
            newer = [o for o in newer if (o.created_at, o.id) > (one.created_at, one.id)]
            assert one.reason is SnapshotReason.SAFETY or len(newer) >= last
