"""A real database for each test: once SQLite, once PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hutch.store import Store


@pytest.fixture
async def store(each_database: str) -> AsyncIterator[Store]:
    opened = await Store.open(each_database)
    yield opened
    await opened.close()
