"""A Hutch whose model provider is the scripted one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from hutch.demo.scripted_model import ScriptedModel
from tests.machine import Machine

PROVIDER_KEY = "sk-real-key-3f9c1d7e5b"


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A provider that accepts one key and refuses all others."""
    model = ScriptedModel(key=PROVIDER_KEY)
    yield model
    await model.stop()


@pytest.fixture(scope="session")
def templates() -> None:
    """Every built-in template has an image (in the shared cache: quick when they are there)."""
    for name in ("standard", "claude-code", "codex"):
        subprocess.run([sys.executable, "-m", "hutch.images", "build", name], check=True, timeout=900)


@asynccontextmanager
async def running(model: ScriptedModel) -> AsyncIterator[Machine]:
    """A machine that sends to this provider; nothing is left of it afterwards, and that is checked."""
    url = await model.start()
    machine = Machine(anthropic_base_url=url, openai_base_url=f"{url}/v1")
    try:
        await machine.start()
        yield machine
    finally:
        await machine.stop()


@pytest.fixture
async def machine(templates: None, model: ScriptedModel) -> AsyncIterator[Machine]:
    """One of the test's own, which it may ill-treat."""
    async with running(model) as machine:
        yield machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_model() -> AsyncIterator[ScriptedModel]:
    """`model` of all tests of a module."""
    model = ScriptedModel(key=PROVIDER_KEY)
    yield model
    await model.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemons(templates: None, shared_model: ScriptedModel) -> AsyncIterator[Machine]:
    """What `shared_machine` gives to one test after the other."""
    async with running(shared_model) as machine:
        yield machine


@pytest_asyncio.fixture(loop_scope="module")
async def shared_machine(daemons: Machine, shared_model: ScriptedModel) -> AsyncIterator[Machine]:
    """The daemons of all tests of a module, which none of them harms; a test's sandboxes go with it."""
    shared_model.requests = []
    yield daemons
    async with daemons.client() as client:
        for sandbox in (await client.get("/v1/sandboxes")).json()["sandboxes"]:
            assert (await client.delete(f"/v1/sandboxes/{sandbox['id']}")).status_code == 204
