"""Sandboxes through the whole of Hutch against a model of them: random steps, and after them each sandbox has to hold
what the model holds.

`HUTCH_TEST_SEED` repeats a run (it is printed); `HUTCH_TEST_EXAMPLES` (the first two are trivial) and
`HUTCH_TEST_STEPS` of each make it longer; `HUTCH_TEST_MODEL_KILLS=1` adds `kill -9` of the daemons between the steps.
"""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tests.integration.test_node_pause_killed import assert_tidy
from tests.integration.test_stack_killed import NOBODYS
from tests.stack import Content, Stack

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(3600)]

EXAMPLES = int(os.environ.get("HUTCH_TEST_EXAMPLES", "5"))
STEPS = int(os.environ.get("HUTCH_TEST_STEPS", "15"))
KILLS = os.environ.get("HUTCH_TEST_MODEL_KILLS", "0") != "0"
MOST = 4
PICK = st.integers(0, 1 << 20)


@dataclass
class Box:
    """What a sandbox should be."""

    id: str
    content: Content
    snapshots: list[str]
    """Those that it may go back to."""
    state: str = "running"


class Sandboxes(RuleBasedStateMachine):
    """The rules name boxes by number: which one it is follows from the draws alone, so that a seed repeats a run."""

    stack: Stack

    def __init__(self) -> None:
        super().__init__()
        self.boxes: list[Box] = []
        self.saved: dict[str, Content] = {}
        """By snapshot."""
        self.written = 0

    def box(self, number: int) -> Box:
        return self.boxes[number % len(self.boxes)]

    @initialize()
    def first(self) -> None:
        self.create(256)

    @precondition(lambda self: len(self.boxes) < MOST)
    @rule(memory_mib=st.sampled_from([128, 256]))
    def create(self, memory_mib: int) -> None:
        id, content = self.stack.make(memory_mib)
        self.boxes.append(Box(id, content, []))

    @rule(number=PICK, more=st.integers(1, 9))
    def count(self, number: int, more: int) -> None:
        box = self.box(number)
        if box.content.total is None:
            started = self.stack.start_counter(box.id)
            assert (started.total, started.files) == (0, box.content.files)
            box.content = started
        total = (box.content.total or 0) + more
        assert self.stack.add(box.id, more) == total
        box.content, box.state = replace(box.content, total=total), "running"

    @rule(number=PICK, name=st.sampled_from("abc"), kilobytes=st.integers(0, 300))
    def write(self, number: int, name: str, kilobytes: int) -> None:
        box, self.written = self.box(number), self.written + 1
        data = f"{self.written} ".encode() * (kilobytes * 512)
        self.stack.write(box.id, name, data)
        box.content, box.state = box.content.with_file(name, hashlib.sha256(data).hexdigest()), "running"

    @rule(number=PICK)
    def compare(self, number: int) -> None:
        box = self.box(number)
        assert self.stack.state(box.id) == box.state
        assert self.stack.contents(box.id) == box.content
        box.state = "running"

    @rule(number=PICK, mode=st.sampled_from(["full", "disk"]))
    def pause(self, number: int, mode: str) -> None:
        box = self.box(number)
        paused = self.stack.change(box.id, "pause", {"mode": mode})
        if box.state == "running" or (box.state == "paused" and mode == "disk"):
            box.state = {"full": "paused", "disk": "hibernated"}[mode]
            if mode == "disk":
                box.content = box.content.without_memory()
            box.snapshots.append(paused["snapshot"])
            self.saved[paused["snapshot"]] = box.content
        assert paused["state"] == box.state

    @rule(number=PICK)
    def resume(self, number: int) -> None:
        box = self.box(number)
        resumed = self.stack.change(box.id, "resume")
        assert resumed["state"] == "running"
        if box.state != "running":
            assert resumed["resumed"]["memory"] == (box.state == "paused")
        box.state = "running"

    @rule(number=PICK, name=st.sampled_from([None, "kept"]))
    def snapshot(self, number: int, name: str | None) -> None:
        box = self.box(number)
        taken = self.stack.change(box.id, "snapshots", {"name": name})["id"]
        box.snapshots.append(taken)
        self.saved[taken] = box.content
        assert self.stack.state(box.id) == box.state

    @precondition(lambda self: any(box.snapshots for box in self.boxes))
    @rule(number=PICK, which=PICK)
    def rollback(self, number: int, which: int) -> None:
        able = [box for box in self.boxes if box.snapshots]
        box = able[number % len(able)]
        target = box.snapshots[which % len(box.snapshots)]
        self.stack.change(box.id, "rollback", {"snapshot": target})
        safety = self.stack.get(f"/v1/sandboxes/{box.id}/snapshots")["snapshots"][-1]
        assert safety["reason"] == "safety"
        self.saved[safety["id"]] = box.content
        box.snapshots.append(safety["id"])
        box.content, box.state = self.saved[target], "running"
        assert self.stack.contents(box.id) == box.content

    @precondition(lambda self: len(self.boxes) < MOST)
    @rule(number=PICK, which=st.none() | PICK)
    def fork(self, number: int, which: int | None) -> None:
        box = self.box(number)
        wish: dict[str, object] = {"count": 1}
        content = box.content
        if which is not None and box.snapshots:
            source = box.snapshots[which % len(box.snapshots)]
            wish["from"], content = source, self.saved[source]
        (made,) = self.stack.change(box.id, "fork", wish)["sandboxes"]
        self.boxes.append(Box(made["id"], content, []))
        assert self.stack.contents(made["id"]) == content

    @precondition(lambda self: len(self.boxes) > 1)
    @rule(number=PICK)
    def delete(self, number: int) -> None:
        box = self.box(number)
        self.stack.delete(box.id)
        self.boxes.remove(box)

    @precondition(lambda self: KILLS)
    @rule(victims=st.sampled_from(["server", "node", "both"]))
    def kill(self, victims: str) -> None:
        if victims != "node":
            self.stack.kill_server()
        if victims != "server":
            self.stack.kill()
        self.stack.up()

    def teardown(self) -> None:
        for box in self.boxes:
            note(f"at the end: {box.id}")
            assert self.stack.contents(box.id) == box.content
        assert_tidy(self.stack, NOBODYS)
        for box in self.boxes:
            self.stack.delete(box.id)
        assert self.stack.sandboxes() == []
        assert_tidy(self.stack, NOBODYS)


def test_sandboxes_hold_what_the_model_holds(stack: Stack) -> None:
    chosen = int(os.environ.get("HUTCH_TEST_SEED", random.randrange(2**32)))
    print(f"HUTCH_TEST_SEED={chosen}")
    machine = type("Sandboxes", (Sandboxes,), {"stack": stack})
    run_state_machine_as_test(
        seed(chosen)(machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
