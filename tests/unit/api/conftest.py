"""The whole application in this process: real control, real database, no node."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from hutch.api.app import create_app
from hutch.api.logs import configure_logs
from hutch.control.service import Control
from hutch.settings import Settings
from tests import plain_logs


@dataclass
class Api:
    """The app, its first key, and a client that sends it."""

    app: FastAPI
    key: str
    client: httpx.AsyncClient

    @property
    def anonymous(self) -> httpx.AsyncClient:
        return client_of(self.app)


def client_of(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://hutch.test", headers=headers, timeout=30)


@pytest.fixture(autouse=True)
def _logs(settings: Settings) -> Iterator[None]:
    configure_logs(settings)
    yield
    plain_logs.use()
    logging.basicConfig(force=True)


@pytest.fixture
def settings(tmp_path: Path, database: Callable[[Path], str]) -> Settings:
    settings = Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    database(settings.server_dir / "hutch.db")
    return settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Api]:
    keys: list[str] = []
    app = create_app(settings, Control(settings), keys.append)
    async with app.router.lifespan_context(app), client_of(app, keys[0]) as client:
        yield Api(app, keys[0], client)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with running(settings) as api:
        yield api
