"""A store in a temporary directory, which keeps no plain files longer than it must."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.snapshots import SnapshotStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[SnapshotStore]:
    opened = await SnapshotStore.open(root, cache_bytes=0, cpu_share=1)
    yield opened
    await opened.close()
