"""The real Claude Code and Codex CLIs, in real sandboxes, against a scripted provider."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from hutch.demo.scripted_model import ScriptedModel
from tests.e2e.conftest import PROVIDER_KEY
from tests.machine import Machine

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

AGENTS = ["claude-code", "codex"]


@pytest.fixture
def model(shared_model: ScriptedModel) -> ScriptedModel:
    return shared_model


@pytest.fixture
def machine(shared_machine: Machine) -> Machine:
    return shared_machine


async def run(machine: Machine, agent: str, task: str, **body: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ended task, and all its events."""
    body = {"template": agent, "agent": agent, "llm_key": PROVIDER_KEY, "task": task, **body}
    created = await machine.create(**body)
    return await finish(machine, created["task"]["id"])


async def finish(machine: Machine, task: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    async with machine.client() as client, asyncio.timeout(120):
        while True:
            seen = (await client.get(f"/v1/tasks/{task}")).json()
            if seen["result"]:
                break
            await asyncio.sleep(0.1)
        events = (await client.get(f"/v1/tasks/{task}/events", params={"limit": 1000})).json()["events"]
    return seen, events


def texts(events: list[dict[str, Any]]) -> str:
    return json.dumps(events)


@pytest.mark.parametrize("agent", AGENTS)
async def test_an_agent_does_its_task(machine: Machine, agent: str) -> None:
    task, events = await run(machine, agent, "Look around and write report.md.", outputs=["report.md"])
    assert task["state"] == "succeeded", (task["result"], events[-8:])
    kinds = {event["type"] for event in events}
    assert {"agent_message_chunk", "tool_call", "tool_call_update", "usage", "status", "result"} <= kinds
    assert [output["path"] for output in task["outputs"]] == ["report.md"]
    assert task["usage"]["llm"]["output_tokens"] > 0
    assert task["usage"]["llm"]["requests"] >= 2
    async with machine.client() as client, asyncio.timeout(20):
        while (await client.get("/v1/sandboxes")).json()["sandboxes"]:
            await asyncio.sleep(0.05)  # it is destroyed after the task has ended
        report = await client.get(f"/v1/tasks/{task['id']}/outputs/files", params={"path": "report.md"})
        assert report.status_code == 200 and report.text.strip()


@pytest.mark.parametrize("agent", AGENTS)
async def test_a_refused_key_is_named_as_such(machine: Machine, agent: str) -> None:
    task, _ = await run(machine, agent, "Say hello.", llm_key="sk-of-another-provider")
    assert task["state"] == "failed"
    assert task["result"]["error"] == "llm_auth_failed"


async def test_the_key_is_nowhere_in_the_sandbox_the_logs_the_events_or_the_database(
    machine: Machine, model: ScriptedModel
) -> None:
    look = (
        "env; cat /proc/*/environ; cat /proc/*/cmdline; grep -ral sk-real-key /home /tmp /etc /var /run /.hutch /root"
    )
    task, events = await run(
        machine, "claude-code", f"Look. [model run=sudo sh -c '{look}; true']", outputs=["**"], keep=True
    )
    assert task["state"] == "succeeded", task["result"]
    assert any(request["headers"].get("x-api-key") == PROVIDER_KEY for request in model.requests)
    assert "ANTHROPIC_API_KEY" in texts(events)
    pattern = f"{PROVIDER_KEY[:-1]}[{PROVIDER_KEY[-1]}]"  # not the key itself: commands are in the audit log
    search = {
        "command": f"grep -rac '{pattern}' /home /tmp /etc /var /run /proc/1/environ | grep -v ':0$'",
        "user": "root",
    }
    async with machine.client() as client:
        found = (await client.post(f"/v1/sandboxes/{task['sandbox_id']}/exec", json=search)).json()
        outputs = (await client.get(f"/v1/tasks/{task['id']}/outputs")).content
        shown = (await client.get(f"/v1/sandboxes/{task['sandbox_id']}")).text + json.dumps(task)
    assert found["stdout"] == ""
    assert PROVIDER_KEY not in texts(events) + shown + machine.log("api") + machine.log("node")
    assert PROVIDER_KEY.encode() not in outputs
    files = [path for path in machine.data_dir.rglob("*") if path.is_file() and path.stat().st_size < 64 << 20]
    assert files and [path for path in files if PROVIDER_KEY.encode() in path.read_bytes()] == []


async def test_a_token_budget_stops_the_agent_in_mid_run_and_keeps_what_was_done(machine: Machine) -> None:
    costs = "[model input_tokens=100] [model tokens=1500] [model slow=0.1] [model chunks=40]"
    prompt = f"Go. [model run=echo kept > kept.txt] {costs}"
    task, events = await run(machine, "claude-code", prompt, budget={"llm_tokens": 2500}, outputs=["kept.txt"])
    assert task["state"] == "budget_exceeded", task["result"]
    levels = [event["data"]["level"] for event in events if event["type"] == "budget"]
    assert levels == ["warning", "exceeded"]
    assert [output["path"] for output in task["outputs"]] == ["kept.txt"]


async def test_a_prompt_of_five_megabytes(machine: Machine) -> None:
    task, _ = await run(machine, "claude-code", "All of this is the task. " * 200_000 + "[model say=read it all]")
    assert task["state"] == "succeeded", task["result"]


async def test_inputs_and_outputs_are_part_of_the_call(machine: Machine, tmp_path: Path) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("repo/notes.txt")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"notes\n"))
    async with machine.client() as client:
        upload = (await client.post("/v1/uploads", content=buffer.getvalue())).json()["id"]
    created = await machine.create(
        agent="command",
        task="cat repo/notes.txt; mkdir -p out/deep; cp repo/notes.txt out/deep/copy.txt",
        inputs=[{"type": "upload", "upload": upload, "path": "."}],
        outputs=["out/**/*.txt"],
    )
    task, events = await finish(machine, created["task"]["id"])
    assert task["state"] == "succeeded", task["result"]
    assert "notes" in texts(events)
    assert task["outputs"] == [{"path": "out/deep/copy.txt", "size": 6}]
