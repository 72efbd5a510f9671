"""Nothing is lost and nothing leaks when server and node are killed at random moments (`kill -9`), many times.

The seed is printed, and `HUTCH_TEST_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import PROVIDER_KEY
from tests.machine import Daemon, Machine

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

ROUNDS = int(os.environ.get("HUTCH_TEST_KILLS", "8"))
LINES = 400
"""At 50 ms a line the command outlives the killing by a little."""


async def watch(machine: Machine, task: str, events: list[dict[str, Any]]) -> None:
    """Follow the task over SSE to its end, connecting again after every break, as a client does."""
    while not (events and events[-1]["type"] == "result"):
        start = events[-1]["offset"] + 1 if events else 1
        try:
            async with (
                machine.client(timeout=20) as client,
                client.stream(
                    "GET",
                    f"/v1/tasks/{task}/events",
                    params={"from": start},
                    headers={"Accept": "text/event-stream"},
                ) as answer,
            ):
                async for line in answer.aiter_lines():
                    if line.startswith("data:"):
                        events.append(json.loads(line.removeprefix("data:")))
        except (httpx.HTTPError, OSError):
            await asyncio.sleep(0.1)


async def kill_at_random(machine: Machine, random_: random.Random, rounds: int) -> list[str]:
    """Kill one or both daemons, wait a little, start them again; `rounds` times. What was done, for the report."""
    choices: list[tuple[Daemon, ...]] = [("api",), ("node",), ("api", "node")]
    done = []
    for _ in range(rounds):
        await asyncio.sleep(random_.uniform(0.05, 1.5))
        victims = random_.choice(choices)
        for daemon in victims:
            machine.kill(daemon)
        await asyncio.sleep(random_.uniform(0, 0.5))
        for daemon in victims:
            machine.spawn(daemon)
        done.append("+".join(victims))
        if random_.random() < 0.5:
            await machine.ready()
    await machine.ready()
    return done


async def sandboxes(client: httpx.AsyncClient) -> list[str]:
    """The ids of all that have not ended."""
    return [sandbox["id"] for sandbox in (await client.get("/v1/sandboxes")).json()["sandboxes"]]


def text_of(events: list[dict[str, Any]], *types: str) -> str:
    return "".join(event["data"].get("text", "") for event in events if event["type"] in types)


def assert_whole(events: list[dict[str, Any]]) -> None:
    """Offsets from 1 without gap or double; exactly one result, at the end."""
    assert [event["offset"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events].count("result") == 1
    assert events[-1]["type"] == "result"


async def test_kills_at_random_moments_lose_nothing(machine: Machine) -> None:
    seed = int(os.environ.get("HUTCH_TEST_SEED", random.randrange(2**32)))
    print(f"HUTCH_TEST_SEED={seed}")
    counter = f"for i in $(seq 1 {LINES}); do echo line-$i.; sleep 0.05; done; echo done > out.txt"
    command = await machine.create(agent="command", task=counter, outputs=["out.txt"])
    agent = await machine.create(
        template="claude-code",
        agent="claude-code",
        llm_key=PROVIDER_KEY,
        task="Report. [model run=for i in $(seq 1 50); do echo $i; sleep 0.2; done] [model slow=0.3]",
    )
    plain = await machine.create(lifetime=600)
    streams: list[list[dict[str, Any]]] = [[], []]
    watchers = [
        asyncio.create_task(watch(machine, created["task"]["id"], events))
        for created, events in zip((command, agent), streams, strict=True)
    ]
    killed = await kill_at_random(machine, random.Random(seed), ROUNDS)
    print("killed:", *killed)
    async with asyncio.timeout(180):
        await asyncio.gather(*watchers)

    for events in streams:
        assert_whole(events)
    lines = [
        int(number) for number in re.findall(r"line-(\d+)\.", text_of(streams[0], "output", "agent_message_chunk"))
    ]
    assert lines == list(range(1, LINES + 1))
    assert streams[0][-1]["data"]["state"] == "succeeded"
    assert streams[1][-1]["data"]["state"] == "succeeded", streams[1][-1]
    async with machine.client() as client:
        outputs = await client.get(f"/v1/tasks/{command['task']['id']}/outputs/files", params={"path": "out.txt"})
        assert outputs.text == "done\n"
        answer = await client.post(f"/v1/sandboxes/{plain['id']}/exec", json={"command": ["echo", "alive"]})
        assert answer.json()["stdout"] == "alive\n"
        async with asyncio.timeout(60):  # the tasks' sandboxes go after their results are told
            while await sandboxes(client) != [plain["id"]]:
                await asyncio.sleep(0.1)


async def test_a_deadline_holds_while_both_daemons_are_down(machine: Machine) -> None:
    sandbox = await machine.create(lifetime=4)
    machine.kill("api")
    machine.kill("node")
    await asyncio.sleep(5)
    machine.spawn("node")
    machine.spawn("api")
    await machine.ready()
    async with machine.client() as client, asyncio.timeout(15):
        while (seen := (await client.get(f"/v1/sandboxes/{sandbox['id']}")).json())["state"] != "stopped":
            await asyncio.sleep(0.1)
    assert "lifetime" in seen["reason"]


async def test_a_run_time_budget_holds_over_a_restart_of_the_server(machine: Machine) -> None:
    begin = time.time()
    created = await machine.create(agent="command", task="echo begun; sleep 600", budget={"run_time": 10})
    events: list[dict[str, Any]] = []
    watcher = asyncio.create_task(watch(machine, created["task"]["id"], events))
    await asyncio.sleep(2)
    machine.kill("api")
    await asyncio.sleep(1)
    machine.spawn("api")
    await machine.ready()
    async with asyncio.timeout(60):
        await watcher
    assert_whole(events)
    assert events[-1]["data"]["state"] == "budget_exceeded"
    assert [event["data"]["level"] for event in events if event["type"] == "budget"] == ["warning", "exceeded"]
    assert text_of(events, "output", "agent_message_chunk").count("begun") == 1
    ended = datetime.fromisoformat(events[-1]["time"]).timestamp()
    assert 10 <= ended - begin < 25
