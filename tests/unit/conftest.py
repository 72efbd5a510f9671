"""What the unit tests share: directories in memory, and databases that are ready."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hutch.store import Store

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30
"""Bytes that must be free there: some tests write files of a quarter of a gigabyte, and several run at once."""


def _in_memory() -> str | None:
    """Where hundreds of tests sync their files without waiting for a disk; None: where all temporary files are. What a
    disk loses is tested with disks that are made to lose it (`snapshots/power.py`)."""
    try:
        found = os.statvfs(_MEMORY)
    except OSError:
        return None
    return str(_MEMORY) if os.access(_MEMORY, os.W_OK) and found.f_bavail * found.f_frsize >= _ROOM else None


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of the test's own, gone after it."""
    with tempfile.TemporaryDirectory(prefix="hu-", dir=_in_memory(), ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "empty.db"

    async def make() -> None:
        await (await Store.open(f"sqlite+aiosqlite:///{path}")).close()

    with ThreadPoolExecutor(1) as aside:  # the event loops of the tests are none of its business
        aside.submit(asyncio.run, make()).result()
    return path


@pytest.fixture
def database(_empty_database: Path) -> Callable[[Path], str]:
    """Puts a database with today's tables there, and gives its URL: to run the migrations takes longer than most
    tests, and they have tests of their own."""

    def put(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_empty_database, path)
        return f"sqlite+aiosqlite:///{path}"

    return put
