"""What goes on inside real sandboxes is in the audit log, by the word of their kernels: whatever the guest does,
through thaws and forks, and after a `kill -9` of the node."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import datetime
from textwrap import dedent
from typing import Any

import pytest
from tests.stack import Stack
from tests.world import Web, web

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SNEAK = dedent(
    """
    import ctypes, os, shutil, socket
    shutil.copy("/bin/sleep", "/tmp/NAME")
    if os.fork() == 0:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, b"innocent", 0, 0, 0)
            os.setsid()
            for port in (PORT, PORT + 1):
                socket.socket().connect_ex(("ADDRESS", port))
            os.execv("/tmp/NAME", ["[kworker]", "0"])
        os._exit(0)
    os.wait()
    """
)
"""Run by a process that is nobody's child any more and has another name."""


@pytest.fixture(scope="module")
def internet() -> Iterator[Web]:
    with web() as made:
        yield made


@pytest.fixture(scope="module")
def stack(standard_template: str) -> Iterator[Stack]:
    made = Stack()
    try:
        made.up()
        yield made
    finally:
        made.close()


def sneak(stack: Stack, box: str, name: str, to: Web) -> None:
    code = SNEAK.replace("NAME", name).replace("ADDRESS", to.address).replace("PORT", str(to.port))
    packed = base64.b64encode(code.encode()).decode()
    stack.execute(box, f"echo {packed} | base64 -d | python3 -")


def records(stack: Stack, box: str, action: str, outcome: str) -> list[dict[str, Any]]:
    found = stack.get(f"/v1/audit?subject={box}&action={action}&limit=1000")["records"]
    assert all(each["actor"] == box for each in found)
    return [each for each in found if each["outcome"] == outcome]


def event(stack: Stack, box: str, action: str, outcome: str, **wanted: Any) -> dict[str, Any]:
    """The one that looks like this, once it is there."""
    end = time.monotonic() + 30
    while True:
        events = [each for record in records(stack, box, action, outcome) for each in record["detail"]["events"]]
        if found := [each for each in events if wanted.items() <= each.items()]:
            assert len(found) == 1
            return found[0]
        assert time.monotonic() < end, (wanted, events, stack.words())
        time.sleep(0.1)


def test_who_hides_is_told_after_a_start_a_fork_a_resume_and_a_restart(stack: Stack, internet: Web) -> None:
    request = {"template": "standard", "network": {"mode": "rules", "allow": [f"{internet.address}:{internet.port}"]}}
    box = stack.must(stack.ask("POST", "/v1/sandboxes", request))["id"]
    sneak(stack, box, "first", internet)
    first = event(stack, box, "process", "started", path="/tmp/first")
    assert (first["argv"], first["uid"]) == (["[kworker]", "0"], 1000)
    assert first["pid"] != first["parent"] > 1
    assert abs(datetime.fromisoformat(first["time"]).timestamp() - time.time()) < 60
    tried = event(stack, box, "connect", "tried", address=internet.address, port=internet.port)
    assert (tried["pid"], tried["name"]) == (first["pid"], "innocent")
    assert tried["path"].startswith("/usr/bin/python3")
    allowed = event(stack, box, "connection", "allowed", address=internet.address)
    assert (allowed["rule"], allowed["port"]) == (f"{internet.address}:{internet.port}", internet.port)
    refused = event(stack, box, "connection", "refused", address=internet.address)
    assert (refused["reason"], refused["port"]) == ("not in policy", internet.port + 1)
    assert {(each["pid"], each["process"]) for each in (allowed, refused)} == {(first["pid"], tried["path"])}
    logged = stack.get(f"/v1/sandboxes/{box}/egress")["entries"]
    by = {"pid": first["pid"], "path": tried["path"], "name": "innocent", "others": 0}
    begun = [entry for entry in logged if entry["seconds"] is None]  # that it has ended comes when the kernel tells
    assert [(entry["allowed"], entry["process"]) for entry in begun] == [(True, by), (False, by)]

    fork = stack.change(box, "fork", {"count": 1})["sandboxes"][0]["id"]
    sneak(stack, fork, "forked", internet)
    event(stack, fork, "process", "started", path="/tmp/forked")
    stack.change(box, "pause")
    sneak(stack, box, "resumed", internet)  # which wakes it
    event(stack, box, "process", "started", path="/tmp/resumed")

    stack.kill()
    stack.up()
    assert stack.get("/v1/node")["trace"] == "all"
    sneak(stack, box, "later", internet)
    event(stack, box, "process", "started", path="/tmp/later")
    (untraced,) = records(stack, box, "process", "untraced")
    assert "restarted" in untraced["detail"]["events"][0]["reason"]
    assert event(stack, box, "process", "started", path="/tmp/first") == first
