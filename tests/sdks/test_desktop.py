"""E2B's desktop SDKs, unmodified, against a real Hutch. What is checked stands in `desktop/`; here it is run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hutch import Hutch
from tests.machine import Machine
from tests.sdks.environments import node_environment
from tests.sdks.running import run, run_checks

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
PYTHON = ("e2b==2.63.0", "e2b-desktop==2.7.2", "websocket-client==1.9.0")
NODE = ("e2b@2.51.0", "@e2b/desktop@2.4.0")


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A Hutch that has the template: built here when it is not in the cache, as it is not among those of the set-up."""
    subprocess.run([sys.executable, "-m", "hutch.images", "build", "desktop"], check=True, timeout=1500)
    machine = Machine(slots_ahead="3")
    try:
        asyncio.run(machine.start())
        yield machine
    finally:
        asyncio.run(machine.stop())


def test_python(environment: dict[str, str]) -> None:
    run_checks(PYTHON, environment, HERE / "desktop")


def test_node(environment: dict[str, str]) -> None:
    node, packages = node_environment(*NODE)
    run([node, "--test", "desktop.mjs"], environment | {"PACKAGES": str(packages)}, HERE / "js")


def test_our_own_sdk_and_a_pause(machine: Machine) -> None:
    with (
        Hutch(url=machine.url, api_key=machine.key) as client,
        client.sandboxes.create("desktop") as sandbox,
    ):
        for _ in range(2):  # the second time there is nothing to do
            assert sandbox.run("start-desktop 800x600").exit_code == 0
        assert sandbox.run("xdotool mousemove 30 40").exit_code == 0
        sandbox.pause()
        assert "x:30 y:40" in sandbox.run("xdotool getmouselocation").stdout
        assert sandbox.run("scrot /tmp/screen.png && file /tmp/screen.png").stdout.count("800 x 600") == 1
