"""This version's HTTP library reads certifi's list of authorities, whatever `SSL_CERT_FILE` says: the operator adds to
that list. Here it is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator

import certifi
import pytest

certifi.where = lambda: os.environ["SSL_CERT_FILE"]

from e2b import Sandbox  # noqa: E402


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(timeout=300, metadata={"of": "version-1"}, envs={"GREETING": "hello"})
    yield made
    made.kill()
