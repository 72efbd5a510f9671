"""What the tests with E2B's clients share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.machine import Machine
from tests.sdks.running import user_of

collect_ignore = [
    "code",
    "desktop",
    "kernel",
    "mcp",
    "python",
    "python1",
    "templates",
    "js",
    "names_python",
    "names_js",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are skipped, with the reason, where they cannot run."""
    missing = "needs root" if os.geteuid() != 0 else "needs runsc" if shutil.which("runsc") is None else ""
    for item in items:
        if missing and item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="module")
def environment(machine: Machine) -> dict[str, str]:
    """What a user of the module's `machine` sets."""
    said = json.loads((machine.root / "run" / "api.json").read_text())
    return user_of(machine) | {"E2B_API_URL": said["url"], "E2B_SANDBOX_URL": said["gateway"]}


@pytest.fixture(scope="session")
def standard_template() -> str:
    """The name of a template whose image is built (in the shared cache: quick when it is there)."""
    subprocess.run([sys.executable, "-m", "hutch.images", "build", "standard"], check=True, timeout=900)
    return "standard"
