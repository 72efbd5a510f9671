"""Finds a snapshot for somebody."""

from __future__ import annotations

from hutch.control.context import Context
from hutch.errors import SnapshotNotFound
from hutch.model import SnapshotRecord, is_id


async def find_snapshot(context: Context, snapshot_id: str, org: str) -> SnapshotRecord:
    """A snapshot of this org. Raises `SnapshotNotFound`, also for another's, and `NodeUnavailable`."""
    if is_id(snapshot_id, "snp"):
        for node in context.fleet.nodes():
            found = await node.find_snapshot(snapshot_id)
            if found is not None and found.org == org:
                return found
    raise SnapshotNotFound(f"no snapshot {snapshot_id[:64]}")
