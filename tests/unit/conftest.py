"""What the unit tests share: directories in memory, and databases that are ready."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine
from sqlalchemy.util import LRUCache

from hutch.store import Store
from tests import postgres

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


def _compile_statements_once() -> None:
    """All databases of a run are alike, and keep the SQL of their statements together. On its own each would compile
    what a server asks for in its first second: 0.1 s of CPU, in every test that has one."""
    dialect, together, init = SQLiteDialect_pysqlite, LRUCache[Any, Any](4096), Engine.__init__

    def join(self: Engine, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._compiled_cache = together

    Engine.__init__ = join  # type: ignore[method-assign]
    dialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
    dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]


_compile_statements_once()


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "empty.db"

    async def make() -> None:
        await (await Store.open(f"sqlite:///{path}")).close()

    postgres.aside(make())
    return path


@pytest.fixture
def database(_empty_database: Path) -> Callable[[Path], str]:
    """Puts a database with today's tables there, and gives its URL: to run the migrations takes longer than most
    tests, and they have tests of their own."""

    def put(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_empty_database, path)
        return f"sqlite:///{path}"

    return put


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    if postgres.program("postgres") is None:
        pytest.skip("PostgreSQL is not installed here (Debian: postgresql)")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    cluster = postgres.Postgres(_in_memory(), shared / "postgresql")
    yield cluster
    cluster.stop()


@pytest.fixture
def postgresql(_cluster: postgres.Postgres) -> Iterator[str]:
    """The URL of a PostgreSQL database with today's tables."""
    name = _cluster.database()
    yield _cluster.url(name)
    _cluster.drop(name)


@pytest.fixture
def bare_postgresql(_cluster: postgres.Postgres) -> Iterator[str]:
    """The URL of a PostgreSQL database without tables."""
    name = _cluster.database(empty=True)
    yield _cluster.url(name)
    _cluster.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest, database: Callable[[Path], str], tmp_path: Path) -> str:
    """The URL of a database with today's tables, of each kind that Hutch works with."""
    if request.param == "sqlite":
        return database(tmp_path / "hutch.db")
    url: str = request.getfixturevalue("postgresql")
    return url
