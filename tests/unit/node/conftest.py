"""What the tests of the node share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: hundreds of daemons sync their files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)
