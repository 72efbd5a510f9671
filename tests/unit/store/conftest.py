"""A real database for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hutch.store import Store


@pytest.fixture
async def store(tmp_path: Path, database: Callable[[Path], str]) -> AsyncIterator[Store]:
    opened = await Store.open(database(tmp_path / "hutch.db"))
    yield opened
    await opened.close()
