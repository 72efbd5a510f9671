from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from hutch import AsyncHutch, Hutch
from hutch.sdk._async import following as async_following
from hutch.sdk._async import transport as async_transport
from hutch.sdk._sync import following as sync_following
from hutch.sdk._sync import transport as sync_transport
from tests.unit.sdk.server import KEY, Server


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncHutch]:
    async with AsyncHutch(server.url, KEY, request_timeout=5) as hutch:
        yield hutch


@pytest.fixture
def blocking(server: Server) -> Iterator[Hutch]:
    with Hutch(server.url, KEY, request_timeout=5) as hutch:
        yield hutch


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up after half a second instead of a minute."""
    for module in (async_transport, sync_transport):
        monkeypatch.setattr(module, "PATIENCE", 0.5)
        monkeypatch.setattr(module, "FIRST_PATIENCE", 0.2)
    for module in (async_following, sync_following):
        monkeypatch.setattr(module, "FOLLOW_PATIENCE", 0.5)
