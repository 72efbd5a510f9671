"""Runs in an environment that has E2B's code interpreter SDK and no Hutch. `E2B_*` leads to a Hutch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2b_code_interpreter import Sandbox


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One for all: of the template that the client asks for by itself."""
    made = Sandbox.create(timeout=900, envs={"GREETING": "hello"})
    yield made
    made.kill()
