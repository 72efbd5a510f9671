"""Snapshots as a tree: every one has at most one parent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from hutch.model.snapshot import SnapshotRecord


def by_age(records: Iterable[SnapshotRecord]) -> list[SnapshotRecord]:
    """Oldest first; those of the same instant by id, so that the order is always the same."""
    return sorted(records, key=lambda record: (record.created_at, record.id))


def children(records: Iterable[SnapshotRecord]) -> dict[str | None, list[SnapshotRecord]]:
    """The children of each parent, oldest first. Those whose parent is not among `records` are under None: roots."""
    known = by_age(records)
    ids = {record.id for record in known}
    found: dict[str | None, list[SnapshotRecord]] = defaultdict(list)
    for record in known:
        found[record.parent if record.parent in ids else None].append(record)
    return dict(found)


def ancestors(records: Mapping[str, SnapshotRecord], id: str) -> list[SnapshotRecord]:
    """The parent of `id`, its parent and so on, as far as `records` (by id) go. Ends also where a loop was recorded."""
    chain: list[SnapshotRecord] = []
    seen = {id}
    current = records.get(id)
    while current is not None and current.parent is not None and current.parent not in seen:
        seen.add(current.parent)
        current = records.get(current.parent)
        if current is not None:
            chain.append(current)
    return chain


def walk(records: Iterable[SnapshotRecord]) -> Iterator[tuple[int, SnapshotRecord]]:
    """Every record after its parent, with its depth: the order in which a timeline is drawn."""
    below = children(records)
    stack = [(0, record) for record in reversed(below.get(None, []))]
    while stack:
        depth, record = stack.pop()
        yield depth, record
        stack += [(depth + 1, child) for child in reversed(below.get(record.id, []))]
