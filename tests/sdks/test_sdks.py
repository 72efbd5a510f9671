"""E2B's own clients, unmodified, against a real Hutch: each call of theirs as their users write it. What is checked
stands in `python/` and `js/`; here it is run."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hutch.model.e2b import e2b_key
from tests.machine import Machine
from tests.sdks.environments import node_environment, python_environment
from tests.sdks.front import make_certificate, tls_front

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = ("e2b==2.63.0", "e2b==2.45.1")
"""The current one, and the last one that makes sandboxes by the first version of the API."""
PYTHON_1 = "e2b==1.11.1"
NODE = "e2b@2.51.0"
DOMAIN = "box.test"


@pytest.fixture(scope="module")
def environment(standard_template: str) -> Iterator[dict[str, str]]:
    """What a user sets, and no more."""
    machine = Machine(slots_ahead="4")
    try:
        asyncio.run(machine.start())
        said = json.loads((machine.root / "run" / "api.json").read_text())
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("E2B_", "HUTCH_"))}
        key = e2b_key(machine.key)
        assert key is not None
        yield kept | {"E2B_API_URL": said["url"], "E2B_SANDBOX_URL": said["gateway"], "E2B_API_KEY": key}
    finally:
        asyncio.run(machine.stop())


@pytest.fixture
def host_names(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """The same by host names, behind what ends TLS."""
    certificate, key = make_certificate(DOMAIN, tmp_path)
    ports = [urlsplit(environment[name]).port or 0 for name in ("E2B_API_URL", "E2B_SANDBOX_URL")]
    with tls_front(certificate, key, *ports) as port:
        kept = {name: value for name, value in environment.items() if not name.endswith("_URL")}
        yield kept | {"E2B_DOMAIN": f"{DOMAIN}:{port}", "SSL_CERT_FILE": str(certificate)}


def run(command: list[str | Path], environment: dict[str, str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    print(done.stdout[-20_000:], done.stderr[-4_000:])
    assert done.returncode == 0


@pytest.mark.parametrize("requirement", PYTHON)
def test_python(requirement: str, environment: dict[str, str]) -> None:
    run_checks(requirement, environment, HERE / "python")


def test_the_first_major_version_by_host_names(host_names: dict[str, str]) -> None:
    run_checks(PYTHON_1, host_names, HERE / "python1")


def run_checks(requirement: str, environment: dict[str, str], directory: Path) -> None:
    command = [python_environment(requirement), "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", "."]
    options = ["-p", "no:cacheprovider", "-o", "python_files=check_*.py", "--durations=5"]
    run([*command, *options], environment | {"PYTHONDONTWRITEBYTECODE": "1"}, directory)


def test_every_call_of_the_client_is_in_the_docs() -> None:
    """Nobody has to guess whether a call works."""
    python = python_environment(PYTHON[0], "e2b-code-interpreter==2.11.5")
    said = subprocess.run([python, HERE / "calls.py"], capture_output=True, text=True, check=True, timeout=60)
    patterns = re.findall(r"`(\w+\.[\w*]+)`", (ROOT / "docs" / "e2b.md").read_text())
    calls = json.loads(said.stdout)
    assert len(calls) > 80
    assert [call for call in calls if not any(fnmatch.fnmatch(call, pattern) for pattern in patterns)] == []


def test_node(environment: dict[str, str]) -> None:
    node, packages = node_environment(NODE)
    run([node, "--test", "suite.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")
