"""`kill -9` of the server, the node, or both, in the middle of each operation: afterwards everything is whole, and
nothing half-made is left.

`HUTCH_TEST_SEED` repeats a run (it is printed), `HUTCH_TEST_KILLS` is the number of kills: one for each operation where
it is not given.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import Any

import httpx
import pytest
from tests.integration.test_node_pause_killed import assert_tidy
from tests.stack import Content, Stack

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]

VERBS = ["create", "delete", "fork", "hibernate", "pause", "resume", "rollback", "snapshots", "wake"]
KILLS = int(os.environ.get("HUTCH_TEST_KILLS", len(VERBS)))
NOBODYS = 3
"""Kernels that may wait for the next thaw while the node runs: two, and one that comes or goes."""
PLAIN = {"template": "standard", "resources": {"memory_mib": 256}}

Call = tuple[str, str, Any]


def prepared(stack: Stack, box: str, verb: str, target: str) -> Call:
    """The call for one operation, to a sandbox that is in the state for it."""
    path = f"/v1/sandboxes/{box}"
    match verb:
        case "create":
            return "POST", "/v1/sandboxes", PLAIN
        case "delete":
            return "DELETE", f"/v1/sandboxes/{stack.must(stack.ask('POST', '/v1/sandboxes', PLAIN))['id']}", None
        case "resume":
            stack.change(box, "pause")
            return "POST", f"{path}/resume", None
        case "wake":
            stack.change(box, "pause", {"mode": "disk"})
            return "POST", f"{path}/resume", None
        case "hibernate":
            return "POST", f"{path}/pause", {"mode": "disk"}
        case "rollback":
            return "POST", f"{path}/rollback", {"snapshot": target}
        case "fork":
            return "POST", f"{path}/fork", {"count": 2}
        case "snapshots":
            return "POST", f"{path}/snapshots", {}
    return "POST", f"{path}/{verb}", None


def timed(stack: Stack) -> dict[str, float]:
    """Seconds that each operation takes here and now, when nobody is killed: kills are spread over them."""
    took = {}
    box, _ = stack.make()
    target = stack.change(box, "snapshots", {})["id"]
    for verb in VERBS:
        method, path, body = prepared(stack, box, verb, target)
        started = time.monotonic()
        stack.must(stack.ask(method, path, body))
        took[verb] = time.monotonic() - started
        stack.change(box, "resume")
    for each in stack.sandboxes():
        stack.delete(each)
    return took


def kill_during(stack: Stack, call: Call, victims: str, after: float) -> bool:
    """Make the call, kill so many seconds later, and start again what was killed. Whether it was still under way."""

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            stack.ask(*call)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(after)
    under_way = thread.is_alive()
    if victims != "node":
        stack.kill_server()
    if victims != "server":
        stack.kill()
    thread.join()
    stack.up()
    return under_way


def tidy_soon(stack: Stack) -> None:
    """What a killed daemon has left is swept within seconds."""
    end = time.monotonic() + 30
    while True:
        try:
            return assert_tidy(stack, NOBODYS)
        except (AssertionError, KeyError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def settled(stack: Stack) -> set[str]:
    """All sandboxes that have not ended, once none of them is on its way to be or to end."""
    end = time.monotonic() + 30
    while True:
        states = {box["id"]: box["state"] for box in stack.get("/v1/sandboxes")["sandboxes"]}
        if not {"starting", "stopping"} & set(states.values()):
            return set(states)
        assert time.monotonic() < end, states
        time.sleep(0.1)


def allowed(verb: str, content: Content, begun: Content) -> list[Content]:
    """What may be in the sandbox after a kill in the middle of this."""
    match verb:
        case "wake":
            return [content.without_memory()]
        case "hibernate":
            return [content, content.without_memory()]
        case "rollback":
            return [content, begun]
    return [content]


def test_what_is_killed_in_the_middle_of_anything_loses_nothing(stack: Stack) -> None:
    chosen = int(os.environ.get("HUTCH_TEST_SEED", random.randrange(2**32)))
    print(f"HUTCH_TEST_SEED={chosen}")
    chance = random.Random(chosen)
    took, hits = timed(stack), 0
    box, _ = stack.make()
    stack.write(box, "a", b"first")
    begun = stack.contents(box)
    target = stack.change(box, "snapshots", {"name": "target"})["id"]
    stack.add(box, 1)
    stack.write(box, "b", b"second")
    content = stack.contents(box)
    verbs = [verb for _ in range(KILLS) for verb in chance.sample(VERBS, len(VERBS))]
    for verb in verbs[:KILLS]:
        if verb == "rollback" and chance.random() < 0.5:
            stack.change(box, "pause")
        victims, after = chance.choice(["server", "node", "both"]), chance.random() * took[verb] * 0.9
        hit = kill_during(stack, prepared(stack, box, verb, target), victims, after)
        hits += hit
        said = f"{verb}, {victims} killed after {after:.3f} s of {took[verb]:.3f}" + ("" if hit else ": too late")
        print(said)
        assert stack.state(box) in ("running", "paused", "hibernated"), said
        before, content = content, stack.contents(box)
        assert content in allowed(verb, before, begun), said
        for other in settled(stack) - {box}:
            assert stack.contents(other) == (content if verb == "fork" else Content(None)), said
            stack.delete(other)
        tidy_soon(stack)
        if content.total is None:
            content = stack.start_counter(box)
        assert stack.add(box, 1) == (content.total or 0) + 1, said
        content = stack.contents(box)
    assert hits >= KILLS // 2, f"only {hits} of {KILLS} kills came while anything was under way"
    stack.delete(box)
    assert stack.sandboxes() == []
    tidy_soon(stack)
