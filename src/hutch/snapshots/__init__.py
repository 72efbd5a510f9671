"""Snapshots of one node: kept as plain files while they are hot, in deduplicated chunks always."""

from hutch.snapshots.importing import Origin
from hutch.snapshots.retention import Retention
from hutch.snapshots.store import SnapshotStore

__all__ = ["Origin", "Retention", "SnapshotStore"]
