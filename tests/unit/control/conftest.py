from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.control.model_node import ModelFleet, ModelNode

from hutch.control.service import Control
from hutch.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database: Callable[[Path], str]) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    database(settings.server_dir / "hutch.db")
    return settings


@pytest.fixture
def node() -> ModelNode:
    return ModelNode()


@asynccontextmanager
async def controlling(settings: Settings, node: ModelNode) -> AsyncIterator[Control]:
    """A server over this node."""
    control = Control(settings, ModelFleet(node))
    await control.start()
    try:
        yield control
    finally:
        await control.stop()


@pytest.fixture
async def control(settings: Settings, node: ModelNode) -> AsyncIterator[Control]:
    async with controlling(settings, node) as control:
        yield control
