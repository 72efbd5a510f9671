"""Two things asked of one sandbox at once, through the whole of Hutch."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.integration.test_stack_killed import tidy_soon
from tests.stack import Stack

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

Call = Callable[[], httpx.Response]


@pytest.fixture(scope="module")
def stack(standard_template: str) -> Iterator[Stack]:
    made = Stack()
    try:
        made.up()
        yield made
        assert made.sandboxes() == []
        tidy_soon(made)
    finally:
        made.close()


def post(stack: Stack, box: str, verb: str, body: Any = None) -> Call:
    return lambda: stack.ask("POST", f"/v1/sandboxes/{box}/{verb}", body)


def delete(stack: Stack, box: str) -> Call:
    return lambda: stack.ask("DELETE", f"/v1/sandboxes/{box}")


def at_once(*calls: Call, apart: float = 0.0) -> list[httpx.Response]:
    """The answers; each call begins `apart` seconds after the one before it."""

    def one(number: int, call: Call) -> httpx.Response:
        time.sleep(number * apart)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(one, *each) for each in enumerate(calls)]]


def statuses(*answers: httpx.Response) -> list[int]:
    return [answer.status_code for answer in answers]


def code(answer: httpx.Response) -> str | None:
    return None if answer.is_success else str(answer.json()["code"])


def test_two_pauses_are_one_and_twenty_commands_wake_it_once(stack: Stack) -> None:
    box, content = stack.make()
    answers = at_once(*[post(stack, box, "pause")] * 3)
    assert statuses(*answers) == [200] * 3
    assert len({answer.json()["snapshot"] for answer in answers}) == 1
    answers = at_once(*(post(stack, box, "exec", {"command": ["echo", str(number)]}) for number in range(20)))
    assert statuses(*answers) == [200] * 20
    assert [answer.json()["stdout"] for answer in answers] == [f"{number}\n" for number in range(20)]
    assert len(stack.journal(box, "sandbox_resumed")) == len(stack.journal(box, "sandbox_paused")) == 1
    assert stack.contents(box) == content
    stack.delete(box)


@pytest.mark.parametrize("verb", ["pause", "snapshots", "resume", "fork"])
def test_a_deletion_wins(stack: Stack, verb: str) -> None:
    apart = random.choice((0.0, 0.05, 0.1, 0.2))
    box, _ = stack.make()
    if verb == "resume":
        stack.change(box, "pause")
    body = {"snapshots": {}, "fork": {"count": 2}}.get(verb)
    changed, deleted = at_once(post(stack, box, verb, body), delete(stack, box), apart=apart)
    said = f"{apart} s apart: {changed.text}, {deleted.text}"
    assert deleted.status_code == 204, said
    assert code(changed) in (None, "sandbox_not_running", "sandbox_not_found", "snapshot_not_found"), said
    assert stack.state(box) == "stopped"
    if verb == "fork" and changed.is_success:
        for made in changed.json()["sandboxes"]:
            assert stack.execute(made["id"], "echo alive") == "alive\n"
            stack.delete(made["id"])
    assert stack.sandboxes() == []


def test_a_fork_and_a_rollback(stack: Stack) -> None:
    box, begun = stack.make()
    target = stack.change(box, "snapshots", {})["id"]
    stack.add(box, 5)
    now = stack.contents(box)
    for apart in (0.0, 0.1):
        wish = {"count": 2}
        calls = post(stack, box, "rollback", {"snapshot": target}), post(stack, box, "fork", wish)
        back, forked = at_once(*calls, apart=apart)
        assert statuses(back, forked) == [200, 201], (back.text, forked.text)
        found = [stack.contents(made["id"]) for made in forked.json()["sandboxes"]]
        assert found in ([begun] * 2, [now] * 2)
        assert stack.contents(box) == begun
        for made in forked.json()["sandboxes"]:
            stack.delete(made["id"])
        stack.add(box, 5)
    stack.delete(box)


def test_a_pause_and_a_command(stack: Stack) -> None:
    box, content = stack.make()
    for number, apart in enumerate((0.0, 0.15)):
        command = f"exec 3<>/dev/tcp/127.0.0.1/7000 && echo 1 >&3 && cat <&3; echo {number}"
        calls = (
            post(stack, box, "pause"),
            post(stack, box, "exec", {"command": ["bash", "-c", command]}),
            woken(stack, box),
        )
        paused, ran, _ = at_once(*calls, apart=apart)
        assert paused.status_code == 200, paused.text
        assert code(ran) in (None, "guest_unavailable"), ran.text  # cut in its middle: it may have been run, or not
        if ran.is_success:
            assert ran.json()["stdout"].endswith(f"\n{number}\n")
        total = stack.contents(box).total
        assert total == content.total + 1 or (not ran.is_success and total == content.total)
        content = stack.contents(box)
    stack.delete(box)


def woken(stack: Stack, box: str) -> Call:
    """A command that has begun waits for its end, and wakes nobody: somebody else has to."""

    def wake() -> httpx.Response:
        time.sleep(1.0)
        return post(stack, box, "resume")()

    return wake


def test_commands_go_on_while_snapshots_are_taken(stack: Stack) -> None:
    box, _ = stack.make()
    done = threading.Event()
    answers: list[httpx.Response] = []

    def work() -> None:
        while not done.is_set():
            answers.append(post(stack, box, "exec", {"command": ["echo", "here"]})())

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work) for _ in range(2)]
        taken = [post(stack, box, "snapshots", {})() for _ in range(6)]
        done.set()
        for each in working:
            each.result()
    assert statuses(*taken) == [201] * 6
    assert [answer.text for answer in answers if not answer.is_success] == []
    assert {answer.json()["stdout"] for answer in answers} == {"here\n"} and len(answers) > 6
    stack.delete(box)


def test_six_pauses_with_a_follower_that_misses_nothing(stack: Stack) -> None:
    box, content = stack.make()
    stack.write(box, "a", bytes(range(256)) * 4000)
    content = stack.contents(box)
    count = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.05; done; echo end"
    exec_id = stack.change(box, "exec", {"command": count, "background": True})["id"]
    frames: list[dict[str, Any]] = []

    def follow() -> None:
        path = f"/v1/sandboxes/{box}/exec/{exec_id}/output"
        with stack.client() as client, client.stream("GET", path) as answer:
            frames.extend(json.loads(line) for line in answer.iter_lines())

    follower = threading.Thread(target=follow)
    follower.start()
    for _ in range(6):
        stack.change(box, "pause")
        assert stack.contents(box) == content  # which wakes it
    stack.execute(box, "touch /tmp/stop")
    follower.join(60)
    said = "".join(frame["data"] for frame in frames if frame["type"] == "stdout").split()
    assert said == [*(str(number) for number in range(1, len(said))), "end"] and len(said) > 20
    assert frames[-1]["type"] == "exit"
    stack.delete(box)
