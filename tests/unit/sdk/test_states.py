"""Pause, resume, snapshots, rollback and fork of the client, asynchronous and blocking."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from hutch import AsyncHutch, AsyncSandbox, Hutch, Sandbox
from hutch.errors import InvalidRequest
from hutch.model import SandboxState
from tests.unit.sdk.server import SANDBOX_ID, TASK_ID, Server, problem, sandbox, task

BOX = f"/v1/sandboxes/{SANDBOX_ID}"
SNAPSHOT = "snp_" + "a" * 22


def record(**members: Any) -> dict[str, Any]:
    fields = {"id": SNAPSHOT, "sandbox_id": SANDBOX_ID, "reason": "manual", "created_at": "2026-11-21T12:00:00Z"}
    return {**fields, **members}


def on(server: Server, method: str, path: str, *answers: Any) -> list[tuple[Any, str | None]]:
    """Answer in turn, the last for ever; what it was sent: the body and the idempotency key."""
    sent: list[tuple[Any, str | None]] = []

    @server.on(method, path)
    async def handler(request: web.Request) -> web.StreamResponse:
        sent.append((await request.json() if request.can_read_body else None, request.headers.get("Idempotency-Key")))
        answer = answers[min(len(sent), len(answers)) - 1]
        return answer() if callable(answer) else web.json_response(answer)

    return sent


@pytest.mark.parametrize("asleep", ["paused", "hibernated"])
async def test_connect_wakes_what_sleeps_and_only_that(server: Server, client: AsyncHutch, asleep: str) -> None:
    on(server, "GET", BOX, sandbox(state=asleep), sandbox())
    woken = on(server, "POST", f"{BOX}/resume", sandbox())
    assert (await AsyncSandbox.connect(SANDBOX_ID, client=client)).state is SandboxState.RUNNING
    assert (await AsyncSandbox.connect(SANDBOX_ID, client=client)).state is SandboxState.RUNNING
    assert len(woken) == 1
    assert (await client.sandboxes.get(SANDBOX_ID)).state is SandboxState.RUNNING and len(woken) == 1


async def test_pause_is_safely_sent_again(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    sent = on(server, "POST", f"{BOX}/pause", lambda: problem(503, "node_unavailable", retryable=True),
              sandbox(state="paused"))  # fmt: skip
    box = await client.sandboxes.get(SANDBOX_ID)
    assert (await box.pause()).state is SandboxState.PAUSED
    assert box.state is SandboxState.PAUSED and len(sent) == 2


async def test_a_snapshot_is_named_and_gone_back_to(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    taken = on(server, "POST", f"{BOX}/snapshots", lambda: problem(503, "node_unavailable", retryable=True),
               record(name="n", stopped_ms=5.0))  # fmt: skip
    on(server, "GET", f"{BOX}/snapshots", {"snapshots": [record()]})
    on(server, "GET", f"{BOX}/timeline", {"snapshots": [record(depth=0, newer_field=1)]})
    back = on(server, "POST", f"{BOX}/rollback", sandbox())
    gone = on(server, "DELETE", f"/v1/snapshots/{SNAPSHOT}", lambda: web.Response(status=204),
              lambda: problem(404, "snapshot_not_found"))  # fmt: skip
    box = await client.sandboxes.get(SANDBOX_ID)
    snapshot = await box.snapshot("n")
    assert (snapshot.name, snapshot.stopped_ms) == ("n", 5.0)
    assert [each.id for each in await box.snapshots()] == [SNAPSHOT]
    assert [each.depth for each in await box.timeline()] == [0]
    await box.rollback(snapshot)
    await box.rollback(SNAPSHOT)
    assert [body for body, _ in taken] == [{"name": "n"}] * 2 and taken[0][1] == taken[1][1] is not None
    assert [body for body, _ in back] == [{"snapshot": SNAPSHOT}] * 2
    await client.snapshots.delete(SNAPSHOT)
    await client.snapshots.delete(SNAPSHOT)
    assert len(gone) == 2


async def test_back_to_a_turn(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox(task=task()))
    of_box = on(server, "POST", f"{BOX}/rollback", sandbox())
    of_task = on(server, "POST", f"/v1/tasks/{TASK_ID}/rollback", task(state="running", turn=7))
    box = await client.sandboxes.get(SANDBOX_ID)
    await box.rollback(turn=3)
    assert (await box.task.rollback(7)).turn == box.task.info.turn == 7
    await box.task.rollback(snapshot=SNAPSHOT)
    assert [body for body, _ in of_box] == [{"turn": 3}]
    assert [body for body, _ in of_task] == [{"turn": 7}, {"snapshot": SNAPSHOT}]
    for nothing in (box.rollback(), box.rollback(SNAPSHOT, turn=1), box.task.rollback()):
        with pytest.raises(InvalidRequest):
            await nothing


async def test_the_idle_timeout_is_changed_or_taken_away(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    sent = on(server, "PATCH", BOX, sandbox(idle_timeout=60.0))
    box = await client.sandboxes.get(SANDBOX_ID)
    assert (await box.update(idle_timeout=60)).idle_timeout == 60
    await box.update(idle_timeout=None)
    assert [body for body, _ in sent] == [{"idle_timeout": 60}, {"idle_timeout": None}]


async def test_what_differs_is_asked_for_by_its_points(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    asked: list[dict[str, str]] = []

    @server.on("GET", f"{BOX}/diff")
    async def diff(request: web.Request) -> web.StreamResponse:
        asked.append(dict(request.query))
        new = {"type": "file", "size": 1, "mode": "0644", "uid": 0, "gid": 0}
        change = {"path": "/f", "change": "added", "after": new, "text": "+x\n"}
        return web.json_response({"from": SNAPSHOT, "added": 1, "changed": 0, "removed": 0, "changes": [change]})

    box = await client.sandboxes.get(SANDBOX_ID)
    found = await box.diff(SNAPSHOT, text=True, path="/home")
    assert (found.from_snapshot, found.changes[0].text) == (SNAPSHOT, "+x\n")
    await box.diff()
    assert asked == [
        {"from": SNAPSHOT, "path": "/home", "text": "true", "limit": "1000"},
        {"path": "", "text": "false", "limit": "1000"},
    ]


async def test_a_fork_is_made_once_however_often_it_is_sent(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    made = {"sandboxes": [sandbox(id="sbx_" + letter * 22) for letter in "bc"]}
    sent = on(server, "POST", f"{BOX}/fork", lambda: problem(503, "server_stopping", retryable=True), made)
    box = await client.sandboxes.get(SANDBOX_ID)
    forks = await box.fork(2, SNAPSHOT)
    assert [fork.id[4] for fork in forks] == ["b", "c"]
    assert [body for body, _ in sent] == [{"count": 2, "from": SNAPSHOT}] * 2
    assert sent[0][1] is not None and sent[0][1] == sent[1][1]


async def test_whatever_is_made_of_a_snapshot_may_fall_back(server: Server, client: AsyncHutch) -> None:
    on(server, "GET", BOX, sandbox())
    made = on(server, "POST", "/v1/sandboxes", sandbox())
    forked = on(server, "POST", f"{BOX}/fork", {"sandboxes": [sandbox()]})
    back = on(server, "POST", f"{BOX}/rollback", sandbox())
    taken = on(server, "POST", f"{BOX}/snapshots", record())
    box = await client.sandboxes.get(SANDBOX_ID)
    await client.sandboxes.create(from_snapshot=SNAPSHOT, fallback="disk")
    await box.fork(from_snapshot=SNAPSHOT, fallback="disk")
    await box.rollback(SNAPSHOT, fallback="disk")
    await box.snapshot(fallback="disk")
    assert [sent[0][0] for sent in (made, forked, back, taken)] == [
        {"from": SNAPSHOT, "fallback": "disk"},
        {"count": 1, "from": SNAPSHOT, "fallback": "disk"},
        {"snapshot": SNAPSHOT, "fallback": "disk"},
        {"fallback": "disk"},
    ]


async def test_create_from_a_snapshot_names_no_template(server: Server, client: AsyncHutch) -> None:
    sent = on(server, "POST", "/v1/sandboxes", sandbox())
    await client.sandboxes.create(from_snapshot=SNAPSHOT, idle_timeout=60)
    assert [body for body, _ in sent] == [{"from": SNAPSHOT, "idle_timeout": 60.0}]


def test_blocking(server: Server, blocking: Hutch) -> None:
    on(server, "GET", BOX, sandbox(state="paused"))
    on(server, "POST", f"{BOX}/resume", sandbox())
    on(server, "POST", f"{BOX}/fork", {"sandboxes": [sandbox()]})
    box = Sandbox.connect(SANDBOX_ID, client=blocking)
    assert box.state is SandboxState.RUNNING
    assert [fork.id for fork in box.fork()] == [SANDBOX_ID]
