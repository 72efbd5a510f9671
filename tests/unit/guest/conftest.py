from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.guest.client import Guest


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest for the tests of one file. What it logs is an error of its own: there must be none."""
    guest = Guest(tmp_path_factory.mktemp("guest"))
    try:
        yield guest
    finally:
        log = guest.close()
    assert log == ""
