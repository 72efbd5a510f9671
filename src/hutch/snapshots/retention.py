"""Which snapshots may go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from pydantic import Field

from hutch.model import Model, SnapshotReason, SnapshotRecord
from hutch.model.lineage import by_age
from hutch.settings import Settings

_FORKING = timedelta(days=1)
"""A fork's snapshot stays at least so long: for as long as the fork's `Idempotency-Key` is remembered, more of it may
be thawed."""
FORKING_MOST = 100
"""So many of an organisation, the newest: who forks and deletes all day does not fill the node's disk."""


class Retention(Model):
    """The rule of one node. Named snapshots, templates, and what was imported are always kept, and take nobody's
    place."""

    last: int = Field(100, ge=0, description="Newest kept of each sandbox: of pauses, of forks, and of all others.")
    checkpoints: int = Field(100, ge=0, description="Newest checkpoints kept of each sandbox.")
    safety_seconds: float = Field(
        86400.0, ge=0, description="How long what a rollback replaced is kept, however many there are."
    )
    orphan_seconds: float = Field(
        30 * 86400.0, ge=0, description="How long what somebody took is kept when its sandbox is gone."
    )

    @classmethod
    def of(cls, settings: Settings) -> Retention:
        """The operator's."""
        return cls(
            last=settings.snapshot_keep,
            checkpoints=settings.snapshot_keep_checkpoints,
            safety_seconds=settings.snapshot_keep_safety,
            orphan_seconds=settings.snapshot_keep_orphans,
        )


def expired(
    records: Iterable[SnapshotRecord],
    rule: Retention,
    now: datetime,
    in_use: frozenset[str] = frozenset(),
    lives: Callable[[str], bool] = lambda sandbox: True,
) -> list[str]:
    """Ids of those that the rule does not keep, oldest first. What is `in_use` stays, and counts as any other. `lives`:
    whether the sandbox of this id is still there."""
    ordered = [record for record in by_age(records) if _is_judged(record)]
    forking = _forking(ordered, now)
    over = {
        record.id
        for record in ordered
        if record.id not in forking and _is_over(record, rule, now, lives(record.sandbox_id))
    }
    counted: dict[tuple[str, SnapshotReason], list[SnapshotRecord]] = defaultdict(list)
    for record in ordered:
        counted[record.sandbox_id, record.reason].append(record)
    for (_, reason), mine in counted.items():
        over.update(record.id for record in mine[: _surplus(len(mine), reason, rule)] if record.id not in forking)
    return [record.id for record in ordered if record.id in over and record.id not in in_use]


def superseded(records: Iterable[SnapshotRecord]) -> list[str]:
    """Ids of pauses and safety snapshots after which their sandbox has another, oldest first: what can go where there
    is no room."""
    newest: set[tuple[str, SnapshotReason]] = set()
    found = []
    for record in reversed(by_age(records)):
        if _is_judged(record) and record.reason in (SnapshotReason.PAUSE, SnapshotReason.SAFETY):
            key = (record.sandbox_id, record.reason)
            if key in newest:
                found.append(record.id)
            newest.add(key)
    return found[::-1]


def _is_judged(record: SnapshotRecord) -> bool:
    """What was imported is of no sandbox."""
    return record.name is None and record.reason is not SnapshotReason.TEMPLATE and record.sandbox_id != ""


def _is_over(record: SnapshotRecord, rule: Retention, now: datetime, lives: bool) -> bool:
    age = now - record.created_at
    match record.reason:
        case SnapshotReason.SAFETY:
            return not lives or age > timedelta(seconds=rule.safety_seconds)
        case SnapshotReason.MANUAL:
            return not lives and age > timedelta(seconds=rule.orphan_seconds)
        case _:
            return not lives


def _surplus(count: int, reason: SnapshotReason, rule: Retention) -> int:
    if reason is SnapshotReason.SAFETY:
        return 0
    return max(0, count - (rule.checkpoints if reason is SnapshotReason.CHECKPOINT else rule.last))


def _forking(ordered: Iterable[SnapshotRecord], now: datetime) -> set[str]:
    """Of which more may be thawed."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for record in ordered:
        if record.reason is SnapshotReason.FORK and now - record.created_at <= _FORKING:
            found[record.org].append(record.id)
    return {id for mine in found.values() for id in mine[-FORKING_MOST:]}
