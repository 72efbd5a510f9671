"""Taking over a frozen directory."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from hutch.errors import AlreadyExists
from hutch.model import SnapshotRecord
from hutch.snapshots.archive import NAME
from hutch.snapshots.disk import telling_full
from hutch.snapshots.hot import allocated
from hutch.snapshots.parts import Parts


def admit(parts: Parts, directory: Path, record: SnapshotRecord) -> tuple[SnapshotRecord, int]:
    """Make `directory` the snapshot's hot copy; the record with its size, and the bytes it takes on the disk.

    First the files get their place, then the index its row: what ends between the two leaves a directory that opening
    the store removes. Raises as `SnapshotStore.admit` does.
    """
    admitted = record.model_copy(update={"logical_bytes": _logical(directory), "stored_bytes": None})
    target = parts.layout.hot_copy(record.id)
    if target.exists() or parts.catalog.has(record.id):
        raise AlreadyExists(f"snapshot {record.id} is there already")
    with telling_full():
        size = allocated(directory)
        parts.disk.rename(directory, target)
        try:
            parts.catalog.insert(admitted)
        except BaseException:
            parts.disk.rename(target, directory)
            raise
    return admitted, size


def _logical(directory: Path) -> int:
    """Sum of the files' sizes. Raises `ValueError` for anything that is not a plain file with a plain name."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or not re.fullmatch(NAME, entry.name):
                raise ValueError(f"{entry.name} in a snapshot is not a plain file")
            total += found.st_size
    return total
