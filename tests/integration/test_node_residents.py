"""Starting resident processes, and finding out that they are not well, with a real guest."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.node_host import RESOURCES, NodeHost

from hutch.errors import BootFailed
from hutch.model import Recipe
from hutch.node.guest import GuestClient
from hutch.node.residents import Residents

pytestmark = pytest.mark.root


async def begin(node: NodeHost, **recipe: Any) -> tuple[dict[str, Any], float]:
    """Start them in a new sandbox; it, and how long that took."""
    sandbox = node.boot()
    wanted = Recipe.model_validate({"name": "t", "resources": RESOURCES, **recipe})
    guests = GuestClient()
    await guests.start()
    started = time.monotonic()
    try:
        await Residents(guests).start(wanted, sandbox["address"], sandbox["guest_token"])
    finally:
        await guests.stop()
    return sandbox, time.monotonic() - started


async def test_they_run_as_the_templates_user_and_the_check_is_tried_until_it_succeeds(shared_node: NodeHost) -> None:
    start = ["sleep 1; id -un >/tmp/ready; sleep 1000", "(sleep 1001 &) ; exit 0"]
    sandbox, took = await begin(shared_node, start=start, ready="cat /tmp/ready")
    assert took >= 1.0
    assert shared_node.exec(sandbox, "cat /tmp/ready; pgrep -fc '^sleep 100'").stdout.split() == ["user", "2"]


async def test_one_that_dies_is_told_with_what_it_said(shared_node: NodeHost) -> None:
    with pytest.raises(BootFailed, match="exit code 3; it said: no database") as caught:
        await begin(shared_node, start=["sleep 1000", "seq 100000; echo no database >&2; exit 3"])
    assert caught.value.extra["log"].endswith("no database") and len(caught.value.extra["log"]) <= 2000


async def test_one_that_is_killed_while_the_check_waits_is_told(shared_node: NodeHost) -> None:
    with pytest.raises(BootFailed, match=r"SIGKILL|exit code 137"):
        await begin(shared_node, start=["sleep 0.5; kill -9 $$"], ready="sleep 0.1; false")


@pytest.mark.parametrize("check", ["echo not yet; false", "echo not yet; sleep 1000"])
async def test_a_check_that_never_succeeds_is_told_in_time(shared_node: NodeHost, check: str) -> None:
    began = time.monotonic()
    with pytest.raises(BootFailed, match=r"not ready within 1\.5 s") as caught:
        await begin(shared_node, start=["sleep 1000"], ready=check, ready_timeout=1.5)
    assert caught.value.extra["log"] == "not yet"
    assert time.monotonic() - began < 10
