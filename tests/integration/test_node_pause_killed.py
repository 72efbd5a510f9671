"""A node that is killed in the middle of a pause, a resume, a snapshot, a rollback or a fork."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from typing import Any

import pytest
from tests.integration.test_node_pause import at_least, start_counter
from tests.leaks import look
from tests.node_host import NodeHost, boot_request

from hutch.model import is_id, new_id

pytestmark = pytest.mark.root

_SLOWEST = 0.8
"""Seconds that an operation takes at most, mostly: kills are spread over them."""


def request(node: NodeHost, verb: str, sandbox: dict[str, Any], target: str) -> tuple[str, str, Any]:
    """The call for one operation."""
    path = f"/sandboxes/{sandbox['id']}"
    match verb:
        case "pause" | "snapshots":
            return "POST", f"{path}/{verb}", {"snapshot": new_id("snp")}
        case "rollback":
            return "POST", f"{path}/rollback", {"snapshot": target, "safety": new_id("snp")}
        case "fork":
            return "PUT", f"/sandboxes/{new_id('sbx')}", boot_request(from_snapshot=target)
    return "POST", f"{path}/resume", None


def kill_during(node: NodeHost, call: tuple[str, str, Any], after: float) -> None:
    """Make the call, kill the node so many seconds later, and start it again."""

    def make() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            node.call(*call)

    thread = threading.Thread(target=make)
    thread.start()
    time.sleep(after)
    node.kill()
    thread.join()
    node.start()


def assert_tidy(node: NodeHost, nobodys: int = 0) -> None:
    """Nothing half-made is left of anything. `nobodys`: how many kernels may wait ahead, or be on their way."""
    known = {each["id"]: each for each in node.call("GET", "/sandboxes").json()["sandboxes"]}
    records = {id: json.loads((node.node_dir / "sandboxes" / id / "record.json").read_text()) for id in known}
    lent = {records[id]["member"] or id for id, each in known.items() if each["state"] == "running"}
    groups = {name.rpartition("/")[2] for name in look(node.id, node.root).cgroups if "_" in name}
    directories = {directory.name: directory for directory in (node.node_dir / "sandboxes").iterdir()}
    assert lent <= groups and known.keys() | lent <= directories.keys()
    for rest in (groups - lent, directories.keys() - known.keys() - lent):
        assert len(rest) <= nobodys and all(is_id(each, "wrm") for each in rest)
    for id in known:
        found = {path.name for path in directories[id].iterdir()}
        assert found == ({"record.json", "runtime"} if id in lent else {"record.json"}), (id, found)
    hot = {path.name for path in (node.node_dir / "snapshots" / "hot").iterdir()}
    assert hot == {record["id"] for record in node.snapshots()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_lost_when_the_node_is_killed_in_the_middle(node: NodeHost, seed: int) -> None:
    chance = random.Random(seed)
    sandbox = node.boot()
    process = start_counter(node, sandbox)
    at_least(node, sandbox, process, 0, 2)
    target = node.snapshot(sandbox, name="target")["id"]
    for verb in chance.sample(["pause", "resume", "snapshots", "rollback", "fork"], 5):
        if verb == "resume" or (verb == "rollback" and chance.random() < 0.5):
            node.pause(sandbox)
        after = chance.random() * _SLOWEST * (2 if verb == "rollback" else 1)
        kill_during(node, request(node, verb, sandbox, target), after)
        found = node.sandbox(sandbox["id"])
        said = f"seed {seed}: {verb}, killed after {after:.3f} s: {found}"
        assert found is not None and found["state"] in ("running", "paused"), said
        assert_tidy(node)
        sandbox = node.resume(sandbox)
        lines, _ = at_least(node, sandbox, process, 0, 2)
        counts = [int(line.split()[0]) for line in lines.decode().splitlines()]
        assert counts == list(range(1, len(counts) + 1)), said
        assert all(line.endswith(b" True") for line in lines.splitlines()), said
        for other in node.call("GET", "/sandboxes").json()["sandboxes"]:
            if other["id"] != sandbox["id"]:
                node.call("DELETE", f"/sandboxes/{other['id']}")
