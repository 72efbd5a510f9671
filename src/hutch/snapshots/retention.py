"""Which snapshots may go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from pydantic import Field

from hutch.model import Model, SnapshotReason, SnapshotRecord
from hutch.model.lineage import by_age


class Retention(Model):
    """The rule of one node. Named snapshots and templates are always kept."""

    last: int = Field(
        100, ge=0, description="Newest snapshots kept of each sandbox; checkpoints and safety snapshots do not count."
    )
    checkpoints: int = Field(100, ge=0, description="Newest checkpoints kept of each sandbox.")
    safety_seconds: float = Field(
        86400.0, ge=0, description="How long what a rollback replaced is kept, however many there are."
    )


def expired(
    records: Iterable[SnapshotRecord], rule: Retention, now: datetime, in_use: frozenset[str] = frozenset()
) -> list[str]:
    """Ids of those that the rule does not keep, oldest first. What is `in_use` stays, and counts as any other."""
    ordered = by_age(records)
    by_sandbox: dict[tuple[str, bool], list[SnapshotRecord]] = defaultdict(list)
    over: set[str] = set()
    for record in ordered:
        if record.reason is not SnapshotReason.SAFETY:
            by_sandbox[record.sandbox_id, record.reason is SnapshotReason.CHECKPOINT].append(record)
        elif now - record.created_at > timedelta(seconds=rule.safety_seconds):
            over.add(record.id)
    for (_, checkpoints), mine in by_sandbox.items():
        most = rule.checkpoints if checkpoints else rule.last
        over.update(record.id for record in mine[: max(0, len(mine) - most)])
    return [record.id for record in ordered if record.id in over and _may_go(record, in_use)]


def _may_go(record: SnapshotRecord, in_use: frozenset[str]) -> bool:
    return record.name is None and record.reason is not SnapshotReason.TEMPLATE and record.id not in in_use
