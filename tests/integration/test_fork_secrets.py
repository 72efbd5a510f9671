"""What a fork finds in itself of its parent's credentials: all its memory and all its files are read, from inside."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.inside import program
from tests.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

LLM_KEY = "sk-ant-api03-of-the-parent-4ab8c1"
GIVEN = "environment-of-the-process-77c0"
AT_CREATE = "environment-of-the-create-11f9"
BROKERED = "ghp_the0parents0real0token0f3a1"
ENVED = "value-that-is-given-as-it-is-5d2e"
WORK = "sleep 1000; true"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machine(standard_template: str) -> AsyncIterator[Machine]:
    made = Machine(slots_ahead="2")
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(machine: Machine) -> AsyncIterator[httpx.AsyncClient]:
    async with machine.client(timeout=120) as made:
        yield made


async def post(client: httpx.AsyncClient, path: str, body: Any = None) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code in (200, 201, 202), answer.text
    return answer.json()


async def execute(client: httpx.AsyncClient, box: str, command: str | list[str], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = await post(client, f"/v1/sandboxes/{box}/exec", {"command": command, **more})
    return found


def token_of(machine: Machine, box: str) -> str:
    """The token of the sandbox's guest that the server knows."""
    with closing(sqlite3.connect(machine.data_dir / "server" / "hutch.db")) as database:
        ((token,),) = database.execute("select guest_token from sandboxes where id = ?", [box])
    return str(token)


def placeholder_of(machine: Machine, task: str) -> str:
    with closing(sqlite3.connect(machine.data_dir / "server" / "hutch.db")) as database:
        ((placeholder,),) = database.execute("select placeholder from tasks where id = ?", [task])
    return str(placeholder)


async def scan(client: httpx.AsyncClient, box: str, texts: list[str]) -> dict[str, list[str]]:
    """Places of each text that was found inside."""
    answer = await client.put(f"/v1/sandboxes/{box}/files", params={"path": "/tmp/scan.py"}, content=program("scan"))
    assert answer.status_code < 300, answer.text
    argv = ["python3", "/tmp/scan.py", *(text[::-1] for text in texts)]
    ran = await execute(client, box, argv, user="root", timeout=60)
    assert ran["exit_code"] == 0, ran["stderr"]
    said = json.loads(ran["stdout"])
    assert said["seen"]["bytes"] > 100 << 20 and said["seen"]["processes"] >= 2, said["seen"]
    return {texts[int(number)]: places for number, places in said["found"].items()}


async def test_a_fork_has_no_credential_of_its_parent_that_is_good_for_anything(
    machine: Machine, client: httpx.AsyncClient
) -> None:
    for name, body in (
        ("BROKERED", {"value": BROKERED, "hosts": ["api.example.com"], "places": ["bearer"]}),
        ("ENVED", {"value": ENVED, "hosts": [], "places": ["env"]}),
    ):
        assert (await client.put(f"/v1/secrets/{name}", json=body)).status_code in (200, 201)
    asked = {"network": {"mode": "rules", "allow": ["api.example.com"]}, "secrets": ["BROKERED", "ENVED"]}
    made = await machine.create(
        agent="command", task=WORK, llm_key=LLM_KEY, env={"AT_CREATE": AT_CREATE}, keep=True, **asked
    )
    parent, task = made["id"], made["task"]["id"]
    async with asyncio.timeout(60):
        while not (await client.get(f"/v1/tasks/{task}")).json()["started_at"]:
            await asyncio.sleep(0.1)
    await execute(client, parent, "true", env={"GIVEN": GIVEN})
    await post(client, f"/v1/sandboxes/{parent}/exec", {"command": WORK, "env": {"GIVEN": GIVEN}, "background": True})
    stand_in = (await execute(client, parent, "echo $BROKERED"))["stdout"].strip()
    before = token_of(machine, parent)
    (fork,) = (await post(client, f"/v1/sandboxes/{parent}/fork", {"count": 1}))["sandboxes"]
    now = token_of(machine, parent)
    assert len({before, now, token_of(machine, fork["id"])}) == 3
    placeholder = placeholder_of(machine, task)
    secrets = [now, machine.key, machine.key.rpartition("_")[2], LLM_KEY, BROKERED]
    shared = [before, placeholder, stand_in, ENVED, GIVEN, AT_CREATE]
    found = await scan(client, fork["id"], secrets + shared)
    assert not found.keys() & set(secrets), found
    assert found.keys() == set(shared), "else the search finds nothing at all"
    assert found[before] == ["memory of 1"]
    assert (await execute(client, parent, "echo the parent works"))["stdout"] == "the parent works\n"
    fresh = await execute(client, fork["id"], "echo $AT_CREATE-$GIVEN-$BROKERED-$ENVED")
    assert fresh["stdout"] == "---\n"
    call = (
        f"curl -s -o /dev/null -w '%{{http_code}}' -H 'x-api-key: {placeholder}' -d '{{}}' http://llm.hutch/v1/messages"
    )
    assert (await execute(client, fork["id"], call))["stdout"] in ("401", "403")
    for box in (fork["id"], parent):
        assert (await client.delete(f"/v1/sandboxes/{box}")).status_code == 204
