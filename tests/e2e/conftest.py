"""A Hutch whose model provider is the scripted one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hutch.demo.scripted_model import ScriptedModel
from tests.machine import Machine

PROVIDER_KEY = "sk-real-key-3f9c1d7e5b"


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A provider that accepts one key and refuses all others."""
    model = ScriptedModel(key=PROVIDER_KEY)
    yield model
    await model.stop()


@pytest.fixture
async def machine(model: ScriptedModel) -> AsyncIterator[Machine]:
    url = await model.start()
    machine = Machine(anthropic_base_url=url, openai_base_url=f"{url}/v1")
    try:
        await machine.start()
        yield machine
    finally:
        await machine.stop()
