"""What the integration tests share: a built template, and node daemons that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.node_host import NodeHost
from tests.stack import Stack
from tests.unit.snapshots.inspect import consistent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are skipped, with the reason, where they cannot run."""
    missing = "needs root" if os.geteuid() != 0 else "needs runsc" if shutil.which("runsc") is None else ""
    for item in items:
        if missing and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def standard_template() -> str:
    """The name of a template whose image is built (in the shared cache: quick when it is there)."""
    subprocess.run([sys.executable, "-m", "hutch.images", "build", "standard"], check=True, timeout=600)
    return "standard"


@pytest.fixture
def node(standard_template: str) -> Iterator[NodeHost]:
    """A node daemon of this test's own, as a real process; everything of it is gone afterwards, and that is checked."""
    host = NodeHost()
    try:
        host.start()
        yield host
    finally:
        host.close()


@pytest.fixture(scope="module")
def shared_node(standard_template: str) -> Iterator[NodeHost]:
    """One node for all tests of a module: who kills it starts it again."""
    host = NodeHost()
    try:
        host.start()
        yield host
    finally:
        host.close()


@pytest.fixture
def stack(standard_template: str) -> Iterator[Stack]:
    """A whole Hutch of this test's own, whose store of snapshots is looked through at the end."""
    made = Stack()
    try:
        made.up()
        yield made
        made.end()
        consistent(made.node_dir / "snapshots")
    finally:
        made.close()
