"""Sandboxes that are claimed from the warm pool, thawed from their template's snapshot, or booted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.leaks import look
from tests.node_host import NodeHost, boot_request

from hutch.model import is_id, new_id

pytestmark = pytest.mark.root

TEMPLATE = "resident"
TEMPLATES = Path(__file__).parents[1] / "templates"


@pytest.fixture(scope="module")
def node(standard_template: str) -> Iterator[NodeHost]:
    """A node with a warm pool, on which the test template was just built."""
    host = NodeHost(template_snapshots="true", warm_pool_mib="256", templates_dir=str(TEMPLATES))
    try:
        host.start()
        events = build(host, TEMPLATE)
        assert events[-1]["type"] == "done" and events[-1]["template"]["snapshot"], events
        yield host
    finally:
        host.close()


def build(node: NodeHost, name: str) -> list[dict[str, Any]]:
    answer = node.call("POST", f"/templates/{name}/build", timeout=600)
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


def start(node: NodeHost, way: str | None = None, **changes: Any) -> dict[str, Any]:
    sandbox = node.boot(template=TEMPLATE, **changes)
    assert way in (None, sandbox["start"]), (sandbox, node.log()[-3000:])
    return sandbox


def waiting(node: NodeHost, least: int = 1) -> dict[str, Any]:
    """What the pool holds, once that is so much."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found: list[dict[str, Any]] = node.call("GET", "/health").json()["warm"]
        for each in found:
            if each["template"] == TEMPLATE and each["ready"] >= least:
                return each
        time.sleep(0.1)
    raise AssertionError(f"nobody waits: {found}\n{node.log()[-3000:]}")


def drawn(node: NodeHost, sandbox: dict[str, Any]) -> list[str]:
    """What the resident process says: its pid, a number from before the freeze, one that it asks the kernel for, one
    of a generator in its memory, its environment."""
    ran = node.exec(sandbox, "curl -fsS http://127.0.0.1:8123/")
    assert ran.exit_code == 0, ran
    return ran.stdout.split()


def groups(node: NodeHost) -> set[str]:
    """Ids under which the runtime has anything."""
    return {name.rpartition("/")[2] for name in look(node.id, node.root).cgroups if "_" in name.rpartition("/")[2]}


def remove_all(node: NodeHost) -> None:
    for each in node.call("GET", "/sandboxes").json()["sandboxes"]:
        node.call("DELETE", f"/sandboxes/{each['id']}")


def test_a_built_template_has_one_snapshot_that_is_nobodys(node: NodeHost) -> None:
    (snapshot,) = [each for each in node.snapshots() if each["reason"] == "template"]
    assert (snapshot["org"], snapshot["template"], snapshot["name"]) == (None, TEMPLATE, None)
    assert node.call("GET", "/sandboxes").json()["sandboxes"] == []
    assert build(node, TEMPLATE)[-1]["template"]["snapshot"]
    assert [each["id"] for each in node.snapshots()] == [snapshot["id"]]


def test_a_sandbox_is_thawed_then_claimed_and_booted_where_neither_can_be(node: NodeHost) -> None:
    remove_all(node)
    first = start(node)
    assert first["start"] in ("thaw", "warm") and first["start_reason"] is None
    found = waiting(node)
    assert found["memory_bytes"] > 1 << 20 and found["target"] >= 1
    start(node, "warm")
    start(node, "thaw", resources={"memory_mib": 600})
    booted = start(node, "boot", resources={"disk_mib": 300})
    assert "disk size (256 MiB)" in booted["start_reason"]
    assert drawn(node, booted)
    remove_all(node)


@pytest.mark.parametrize("way", ["warm", "thaw", "boot"])
def test_each_is_somebody_and_has_the_resident_process(node: NodeHost, way: str) -> None:
    special = {"warm": {}, "thaw": {"memory_mib": 600}, "boot": {"disk_mib": 300}}[way]
    if way == "warm":
        start(node)
        waiting(node)
    sandbox = start(node, way, resources=special, env={"SECRET": "s3cret"})
    name = "echo $SECRET; hostname; cat /run/hutch/boot_id; echo $HUTCH_SANDBOX_ID; date +%s"
    secret, host, boot, id, now = node.exec(sandbox, name).stdout.split()
    assert secret == "s3cret" and id == sandbox["id"] and boot == sandbox["boot_id"]
    assert host == sandbox["id"].replace("_", "-")
    assert abs(time.time() - int(now)) < 3
    _, _, _, _, *env = drawn(node, sandbox)
    assert "LANG" in env and not {"SECRET", "HUTCH_SANDBOX_ID"} & set(env)  # it is older than the sandbox
    remove_all(node)


def test_two_claims_share_no_random_number_but_what_a_process_had_in_its_memory(node: NodeHost) -> None:
    start(node)
    waiting(node)
    one = start(node, "warm")
    waiting(node)
    two = start(node, "warm")
    python = "import random, secrets; print(random.random(), secrets.token_hex())"
    draws = f"od -An -N16 -tx8 /dev/urandom; python3 -c '{python}'"
    first, second = (set(node.exec(each, draws).stdout.split()) for each in (one, two))
    assert len(first) == len(second) == 4 and not first & second
    pid, birth, kernels, own, *_ = drawn(node, one)
    other_pid, other_birth, other_kernels, other_own, *_ = drawn(node, two)
    assert (pid, birth) == (other_pid, other_birth)  # the same process, of one snapshot
    assert kernels != other_kernels, "drawn by a process that lived through the freeze"
    assert own == other_own, "docs/freeze.md and docs/security.md say so: mend them if it is so no more"
    assert one["guest_token"] != two["guest_token"] and one["boot_id"] != two["boot_id"]
    remove_all(node)


def test_a_claimed_sandbox_is_paused_resumed_and_forked_like_any_other(node: NodeHost) -> None:
    start(node)
    waiting(node)
    sandbox = start(node, "warm")
    node.exec(sandbox, "echo kept >/home/user/file")
    fork = node.boot(from_snapshot=node.snapshot(sandbox)["id"])
    node.pause(sandbox)
    assert groups(node).isdisjoint({sandbox["id"]})
    for each in (node.resume(sandbox), fork):
        assert node.exec(each, "cat /home/user/file").stdout == "kept\n"
        assert drawn(node, each)
    remove_all(node)


def test_creates_at_once_each_get_their_own(node: NodeHost) -> None:
    start(node)
    waiting(node)
    made = node.at_once(*[lambda: start(node)] * 6)
    assert {each["start"] for each in made} <= {"warm", "thaw"}
    names = node.at_once(*[lambda each=each: node.exec(each, "hostname").stdout.strip() for each in made])
    assert names == [each["id"].replace("_", "-") for each in made]
    assert len({each["address"] for each in made}) == 6
    remove_all(node)


def test_a_member_whose_kernel_dies_is_not_lent(node: NodeHost) -> None:
    start(node)
    waiting(node)
    for member in [id for id in groups(node) if id.startswith("wrm_")]:
        pid = node.node_dir / "sandboxes" / member / "runtime" / "pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)
    sandbox = start(node)
    assert node.exec(sandbox, "true").exit_code == 0
    remove_all(node)


def lent(node: NodeHost) -> set[str]:
    """Ids under which the sandboxes run that are somebody's."""
    running = [each for each in node.call("GET", "/sandboxes").json()["sandboxes"] if each["state"] == "running"]
    records = [node.node_dir / "sandboxes" / each["id"] / "record.json" for each in running]
    return {json.loads(path.read_text())["member"] or path.parent.name for path in records}


def assert_tidy(node: NodeHost) -> None:
    """Nothing half-made is left of anything."""
    known = {each["id"] for each in node.call("GET", "/sandboxes").json()["sandboxes"]}
    assert groups(node) == lent(node)
    assert {path.name for path in (node.node_dir / "sandboxes").iterdir()} == known | lent(node)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_node_killed_in_the_middle_of_a_claim_or_a_thaw_leaves_nothing(node: NodeHost, seed: int) -> None:
    chance = random.Random(seed)
    start(node)
    waiting(node)
    id = new_id("sbx")

    def create() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            node.call("PUT", f"/sandboxes/{id}", boot_request(template=TEMPLATE))

    thread = threading.Thread(target=create)
    thread.start()
    time.sleep(chance.random() * 0.04 * seed)
    node.kill()
    thread.join()
    node.start()
    assert_tidy(node)
    found = node.sandbox(id)
    if found is not None and found["state"] == "running":
        assert node.exec(found, "hostname").stdout.strip() == id.replace("_", "-")
    else:
        assert found is None or found["death"] == "boot was interrupted"
    remove_all(node)


def test_claimed_sandboxes_live_on_when_the_node_stops_and_the_others_do_not(node: NodeHost) -> None:
    remove_all(node)
    start(node)
    waiting(node)
    claimed = start(node, "warm")
    waiting(node)
    kept = lent(node)
    assert claimed["id"] not in kept, "it runs under its member's id"
    assert any(is_id(id, "wrm") for id in groups(node) - kept), "somebody waits, who is to go"
    assert node.stop() == 0
    assert groups(node) == kept
    node.start()
    assert_tidy(node)
    assert groups(node) == kept
    assert node.exec(claimed, "hostname").stdout.strip() == claimed["id"].replace("_", "-")
    remove_all(node)
