"""`kill -9` of the server, the node, or both, in the middle of each operation: afterwards everything is whole, and
nothing half-made is left.

`HUTCH_TEST_SEED` repeats a run (it is printed), `HUTCH_TEST_KILLS` makes it longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.integration.test_node_pause_killed import assert_tidy
from tests.stack import Stack
from tests.unit.snapshots.inspect import consistent

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("HUTCH_TEST_KILLS", "5"))
SLOWEST = {"pause": 0.6, "hibernate": 0.8, "resume": 0.6, "wake": 0.8, "snapshots": 0.5, "rollback": 1.0, "fork": 1.0}
"""Seconds that each operation takes at most, mostly: kills are spread over them."""


@pytest.fixture
def stack(standard_template: str) -> Iterator[Stack]:
    made = Stack()
    try:
        made.up()
        yield made
        made.end()
        consistent(made.node_dir / "snapshots")
    finally:
        made.close()


def kill_during(stack: Stack, box: str, verb: str, body: Any, victims: str, after: float) -> None:
    """Ask for it, kill so many seconds later, and start again what was killed."""

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            stack.ask("POST", f"/v1/sandboxes/{box}/{verb}", body)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(after)
    if victims != "node":
        stack.kill_server()
    if victims != "server":
        stack.kill()
    thread.join()
    stack.up()


def tidy_soon(stack: Stack) -> None:
    """What a killed daemon has left is swept within seconds."""
    end = time.monotonic() + 30
    while True:
        try:
            return assert_tidy(stack)
        except (AssertionError, KeyError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_what_is_killed_in_the_middle_of_anything_loses_nothing(stack: Stack) -> None:
    chosen = int(os.environ.get("HUTCH_TEST_SEED", random.randrange(2**32)))
    print(f"HUTCH_TEST_SEED={chosen}")
    chance = random.Random(chosen)
    box, begun = stack.make()
    stack.write(box, "a", b"first")
    begun = stack.contents(box)
    target = stack.change(box, "snapshots", {"name": "target"})["id"]
    stack.add(box, 1)
    stack.write(box, "b", b"second")
    content = stack.contents(box)
    verbs = [verb for _ in range(KILLS) for verb in chance.sample(sorted(SLOWEST), len(SLOWEST))]
    for verb in verbs[:KILLS]:
        allowed = [content]
        if verb == "resume" or (verb == "rollback" and chance.random() < 0.5):
            stack.change(box, "pause")
        if verb == "wake":
            stack.change(box, "pause", {"mode": "disk"})
            allowed = [content.without_memory()]
        if verb == "hibernate":
            allowed.append(content.without_memory())
        if verb == "rollback":
            allowed.append(begun)
        path, body = {
            "rollback": (verb, {"snapshot": target}),
            "fork": (verb, {"count": 2}),
            "snapshots": (verb, {}),
            "wake": ("resume", None),
            "hibernate": ("pause", {"mode": "disk"}),
        }.get(verb, (verb, None))
        victims, after = chance.choice(["server", "node", "both"]), chance.random() * SLOWEST[verb]
        kill_during(stack, box, path, body, victims, after)
        said = f"{verb}, {victims} killed after {after:.3f} s"
        print(said)
        assert stack.state(box) in ("running", "paused", "hibernated"), said
        content = stack.contents(box)
        assert content in allowed, said
        for other in set(stack.sandboxes()) - {box}:
            assert stack.contents(other) == content, said
            stack.delete(other)
        tidy_soon(stack)
        if content.total is None:
            content = stack.start_counter(box)
        assert stack.add(box, 1) == (content.total or 0) + 1, said
        content = stack.contents(box)
    stack.delete(box)
    assert stack.sandboxes() == []
    tidy_soon(stack)
