"""Runs in an environment that has E2B's SDK and no Hutch: what a user's program would see. `E2B_*` leads to a Hutch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import e2b
import pytest
from e2b import Sandbox

VERSION = tuple(int(part) for part in __import__("importlib.metadata").metadata.version("e2b").split(".")[:2])


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One for all that does it no harm."""
    made = Sandbox.create(timeout=600, metadata={"of": "shared"}, envs={"GREETING": "hello"})
    yield made
    made.kill()


@pytest.fixture
def own() -> Iterator[Callable[..., Sandbox]]:
    """Makes sandboxes that are gone after the test."""
    made: list[Sandbox] = []

    def create(*arguments: Any, **options: Any) -> Sandbox:
        made.append(Sandbox.create(*arguments, **{"timeout": 300} | options))
        return made[-1]

    yield create
    for each in made:
        each.kill()


@pytest.fixture
def eventually() -> Callable[..., None]:
    def check(condition: Callable[[], Any], seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it has not come true in time"
            time.sleep(0.1)

    return check


def pytest_report_header() -> str:
    return f"e2b {'.'.join(map(str, VERSION))} at {e2b.__file__}"
