"""E2B's own clients, unmodified, against a real Hutch: each call of theirs as their users write it. What is checked
stands in `python/` and `js/`; here it is run."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import Machine
from tests.sdks.environments import node_environment, python_environment
from tests.sdks.names import name_server
from tests.sdks.running import run, run_checks, user_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = ("e2b==2.63.0", "e2b==2.45.1")
"""The current one, and the last one that makes sandboxes by the first version of the API."""
PYTHON_1 = "e2b==1.11.1"
NODE = "e2b@2.51.0"
THIRD_PARTY = "@computesdk/e2b@1.7.52"
"""Written by others for E2B, with the client that it brings."""
NODE_INTERPRETER = "@e2b/code-interpreter@2.8.0"
DESKTOP, NODE_DESKTOP = "e2b-desktop==2.7.2", "@e2b/desktop@2.4.0"
MCP = "mcp==2.3.0"
"""The official client, of the version that the gateway stands on."""
DOMAIN = "box.test"


@pytest.fixture(scope="module")
def machine(standard_template: str) -> Iterator[Machine]:
    machine = Machine(slots_ahead="4", domain=DOMAIN, tls_self="true", tls_port="0", tls_host="127.0.0.1")
    try:
        asyncio.run(machine.start())
        yield machine
    finally:
        asyncio.run(machine.stop())


@pytest.fixture(scope="module")
def user(machine: Machine) -> dict[str, str]:
    """The environment of a user who has a key."""
    return user_of(machine)


@pytest.fixture(scope="module")
def said(machine: Machine) -> dict[str, str]:
    """What the server says of where it listens."""
    told: dict[str, str] = json.loads((machine.root / "run" / "api.json").read_text())
    return told


@pytest.fixture(scope="module")
def environment(user: dict[str, str], said: dict[str, str]) -> dict[str, str]:
    """What a user sets who has no names and no TLS."""
    return user | {"E2B_API_URL": said["url"], "E2B_SANDBOX_URL": said["gateway"], "E2B_VOLUME_API_URL": said["url"]}


@pytest.fixture(scope="module")
def host_names(machine: Machine, user: dict[str, str], said: dict[str, str]) -> dict[str, str]:
    """What a user sets who has both, beside trust in the authority."""
    authority = str(machine.data_dir / "tls" / DOMAIN / "ca.pem")
    domain = said["tls"].removeprefix("https://api.")
    return user | {"E2B_DOMAIN": domain, "SSL_CERT_FILE": authority, "NODE_EXTRA_CA_CERTS": authority}


@pytest.fixture
def resolved(tmp_path: Path) -> Iterator[list[str | Path]]:
    """Begins a command for which all names of the domain lead here."""
    with name_server(DOMAIN, tmp_path) as command:
        yield command


@pytest.mark.parametrize("requirement", PYTHON)
def test_python(requirement: str, environment: dict[str, str]) -> None:
    run_checks((requirement,), environment, HERE / "python")


def test_templates(environment: dict[str, str]) -> None:
    run_checks((PYTHON[0],), environment, HERE / "templates")


def test_mcp(environment: dict[str, str]) -> None:
    """Its template is built here: it is not among those of the set-up."""
    subprocess.run([sys.executable, "-m", "hutch.images", "build", "mcp-gateway"], check=True, timeout=500)
    run_checks((PYTHON[0], MCP), environment, HERE / "mcp")


@pytest.mark.parametrize(("requirement", "checks"), [(PYTHON[0], "names_python"), (PYTHON_1, "python1")])
def test_python_by_host_names(
    requirement: str, checks: str, host_names: dict[str, str], resolved: list[str | Path]
) -> None:
    run_checks((requirement,), host_names, HERE / checks, resolved)


def test_every_call_of_the_client_is_in_the_docs() -> None:
    """Nobody has to guess whether a call works."""
    python = python_environment(PYTHON[0], "e2b-code-interpreter==2.11.5", DESKTOP)
    said = subprocess.run([python, HERE / "calls.py"], capture_output=True, text=True, check=True, timeout=60)
    assert_documented(json.loads(said.stdout))


def test_every_call_of_the_npm_client_is_in_the_docs() -> None:
    node, packages = node_environment(NODE, NODE_INTERPRETER, NODE_DESKTOP)
    environment = os.environ | {"PACKAGES": str(packages)}
    command = [node, HERE / "js" / "calls.mjs"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert_documented(json.loads(said.stdout))


def assert_documented(calls: list[str]) -> None:
    patterns = re.findall(r"`(\w+\.[\w*]+)`", (ROOT / "docs" / "e2b.md").read_text())
    assert len(calls) > 80
    assert [call for call in calls if not any(fnmatch.fnmatch(call, pattern) for pattern in patterns)] == []


def test_templates_node(environment: dict[str, str]) -> None:
    node, packages = node_environment(NODE)
    run([node, "--test", "templates.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")


def test_node(environment: dict[str, str]) -> None:
    node, packages = node_environment(NODE)
    run([node, "--test", "suite.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")


def test_node_by_host_names(host_names: dict[str, str], resolved: list[str | Path]) -> None:
    node, packages = node_environment(NODE)
    run([*resolved, node, "--test", "suite.mjs"], host_names | {"PACKAGES": str(packages)}, HERE / "names_js")


def test_a_package_of_other_people(environment: dict[str, str]) -> None:
    node, packages = node_environment(THIRD_PARTY)
    run([node, "--test", "computesdk.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")
