"""Runs in an environment that has E2B's desktop SDK and no Hutch. `E2B_*` leads to a Hutch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from e2b import CommandExitException
from e2b_desktop import Sandbox

T = TypeVar("T")


@pytest.fixture(scope="session")
def desktop() -> Iterator[Sandbox]:
    """One for all."""
    made = Sandbox.create(resolution=(1280, 800), timeout=600)
    yield made
    made.kill()


@pytest.fixture
def eventually() -> Callable[[Callable[[], T]], T]:
    """What a call answers, once it is anything."""

    def check(call: Callable[[], T], seconds: float = 60.0) -> T:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := call():
                    return found
            except CommandExitException:  # xdotool has found no window
                pass
            assert time.monotonic() < deadline, "it has not come true in time"
            time.sleep(0.1)

    return check
