"""What may keep a paused sandbox from being woken: any call that needs its guest may answer so."""

from __future__ import annotations

from hutch.errors import (
    DiskFull,
    HutchError,
    LimitReached,
    SnapshotCorrupt,
    SnapshotIncompatible,
    ThawFailed,
)

WAKING: tuple[type[HutchError], ...] = (
    ThawFailed,
    SnapshotIncompatible,
    SnapshotCorrupt,
    LimitReached,
    DiskFull,
)
