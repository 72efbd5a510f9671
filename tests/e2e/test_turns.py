"""Tasks of the real agent CLIs are taken back to a turn, and go on from there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hutch.demo.scripted_model import ScriptedModel
from tests.e2e.conftest import PROVIDER_KEY, running
from tests.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

AGENTS = ["claude-code", "codex"]
TURNS = 8
STEPS = "".join(f"[model run=echo turn {n} >> count.txt; sleep 0.7; wc -l < count.txt]" for n in range(1, TURNS + 1))
Json = dict[str, Any]


@pytest.fixture
def model(shared_model: ScriptedModel) -> ScriptedModel:
    return shared_model


@pytest.fixture
def machine(shared_machine: Machine) -> Machine:
    return shared_machine


async def start(machine: Machine, agent: str, **body: Any) -> Json:
    body = {
        "template": agent,
        "agent": agent,
        "llm_key": PROVIDER_KEY,
        "task": f"Count. {STEPS}",
        "keep": True,
        "checkpoints": "turns",
        **body,
    }
    return await machine.create(**body)


async def events(machine: Machine, task: str) -> list[Json]:
    async with machine.client() as client:
        found: list[Json] = (await client.get(f"/v1/tasks/{task}/events", params={"limit": 5000})).json()["events"]
    return found


async def get(machine: Machine, task: str) -> Json:
    async with machine.client() as client:
        found: Json = (await client.get(f"/v1/tasks/{task}")).json()
    return found


async def ended(machine: Machine, task: str) -> Json:
    async with asyncio.timeout(150):
        while not (found := await get(machine, task))["result"]:
            await asyncio.sleep(0.2)
    return found


async def reached(machine: Machine, task: str, turn: int) -> None:
    """Until the checkpoint of this turn is taken, or one of a later turn."""
    async with asyncio.timeout(120):
        while not any(turn <= number for number in checkpoints(await events(machine, task))):
            await asyncio.sleep(0.1)


def checkpoints(found: list[Json]) -> dict[int, str]:
    return {
        e["data"]["turn"]: e["data"]["snapshot"] for e in found if e["type"] == "checkpoint" and "snapshot" in e["data"]
    }


async def lines(machine: Machine, sandbox: str) -> list[str]:
    async with machine.client() as client:
        answer = await client.post(f"/v1/sandboxes/{sandbox}/exec", json={"command": "cat count.txt"})
    text: str = answer.json()["stdout"]
    return text.split("\n")[:-1]


def answers(request: Json) -> int:
    """How often the model has answered in the conversation that this request carries."""
    from hutch.demo import model_anthropic, model_openai

    read = model_anthropic.read if "messages" in request["body"] else model_openai.read
    return read(request["body"], 0).turn


def said(request: Json) -> list[Json]:
    """The conversation, without what an agent tells differently each time."""
    messages: list[Json] = request["body"].get("messages") or request["body"]["input"]
    text = re.sub(r"Wall time [0-9.]+ seconds", "", json.dumps(messages))
    unsteady = ("cache_control", "id")
    found: list[Json] = json.loads(text, object_hook=lambda each: {k: v for k, v in each.items() if k not in unsteady})
    return found


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_agent_is_taken_back_to_a_turn(machine: Machine, model: ScriptedModel, agent: str) -> None:
    made = await start(machine, agent)
    task, sandbox = made["task"]["id"], made["id"]
    await reached(machine, task, 5)
    first = checkpoints(await events(machine, task))
    turn = min(number for number in first if number > 1)
    async with machine.client() as client:
        answer = await client.post(f"/v1/tasks/{task}/rollback", json={"turn": turn})
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "running" and answer.json()["turn"] == turn
    end = await ended(machine, task)
    assert end["state"] == "succeeded", end["result"]
    whole = [f"turn {n}" for n in range(1, TURNS + 1)]
    assert await lines(machine, sandbox) == whole, "files go back with it: no line is missing, and none is there twice"

    found = await events(machine, task)
    assert [event["offset"] for event in found] == list(range(1, len(found) + 1))
    (back,) = [event["data"] for event in found if event["type"] == "rolled_back"]
    assert (back["turn"], back["snapshot"]) == (turn, first[turn])
    asked = [answers(each) for each in model.requests]
    left = asked.index(turn, turn + 1)  # where it was asked for the second time
    assert asked == [*range(left), *range(turn, TURNS + 1)], "no call is lost, and none is cut by a checkpoint"
    old, new = model.requests[:left], model.requests[left:]
    # but what the tool said that was at work at the checkpoint: it has ended a second time
    assert said(new[0])[:-1] == said(old[turn])[:-1], "it remembers all up to the turn, and nothing after it"
    assert end["usage"]["llm"]["requests"] >= len(old) + len(new), "what was spent stays spent"


async def test_a_task_that_has_ended_is_taken_back_and_ends_well(machine: Machine) -> None:
    """Its agent has lost its way: a file that it needs is there at turn 1 and gone at the end."""
    made = await start(machine, "claude-code")
    task, sandbox = made["task"]["id"], made["id"]
    assert (await ended(machine, task))["state"] == "succeeded"
    turn = min(checkpoints(await events(machine, task)))
    async with machine.client() as client:
        spoil = {"command": "echo spoilt > count.txt"}
        await client.post(f"/v1/sandboxes/{sandbox}/exec", json=spoil)
        answer = await client.post(f"/v1/sandboxes/{sandbox}/rollback", json={"turn": turn})
        assert answer.status_code == 200, answer.text
    end = await ended(machine, task)
    assert end["state"] == "succeeded", end["result"]
    assert await lines(machine, sandbox) == [f"turn {n}" for n in range(1, TURNS + 1)]


@pytest_asyncio.fixture(loop_scope="module")
async def doomed(templates: None) -> AsyncIterator[Machine]:
    """One of the test's own, which it may ill-treat."""
    model = ScriptedModel(key=PROVIDER_KEY)
    async with running(model) as machine:
        yield machine
    await model.stop()


async def test_a_node_killed_in_the_middle_of_checkpoints_loses_nothing_of_the_task(doomed: Machine) -> None:
    machine = doomed
    made = await start(machine, "claude-code")
    task, sandbox = made["task"]["id"], made["id"]
    for _ in range(2):
        await under_way(machine, sandbox)
        machine.kill("node")
        machine.spawn("node")
        await machine.ready()
    end = await ended(machine, task)
    assert end["state"] == "succeeded", end["result"]
    assert await lines(machine, sandbox) == [f"turn {n}" for n in range(1, TURNS + 1)]
    known = checkpoints(await events(machine, task))
    async with machine.client() as client:
        timeline = (await client.get(f"/v1/sandboxes/{sandbox}/timeline")).json()["snapshots"]
        assert {entry["turn"] for entry in timeline} >= set(known), "what was told to be there is there"
        answer = await client.post(f"/v1/tasks/{task}/rollback", json={"turn": max(known)})
        assert answer.status_code == 200, answer.text
    assert (await ended(machine, task))["state"] == "succeeded"
    assert await lines(machine, sandbox) == [f"turn {n}" for n in range(1, TURNS + 1)]
    assert not list(machine.data_dir.glob("node/sandboxes/*/frozen-*")), "nothing half done is left"


async def under_way(machine: Machine, sandbox: str) -> None:
    """Until a checkpoint is just being taken."""
    async with asyncio.timeout(90):
        while not list(machine.data_dir.glob(f"node/sandboxes/{sandbox}/frozen-*")):
            await asyncio.sleep(0.005)


async def test_the_how_to_of_the_documentation(machine: Machine) -> None:
    page = Path(__file__).parents[2] / "docs" / "guide" / "rewind.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    story = 'task="Look around and write report.md.'
    assert story in code
    slow = code.replace(story, f"{story} [model stall=2]")  # no model answers as fast as the scripted one
    env = {**os.environ, "HUTCH_URL": machine.url, "HUTCH_API_KEY": machine.key, "ANTHROPIC_API_KEY": PROVIDER_KEY}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", slow, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, said.decode()[-4000:]
