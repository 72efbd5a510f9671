"""Checkpoints of a task, over a node and an agent that do what they are told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.integration.control_host import until
from tests.unit.control.model_node import ModelNode
from tests.unit.control.test_task_moves import TASK, put_task

from hutch.control import agent_run
from hutch.control.service import Control
from hutch.errors import DiskFull, HutchError, LimitReached
from hutch.model import CreateSandbox, Event, SnapshotReason


async def running(control: Control, **values: Any) -> str:
    """A kept sandbox with a task whose agent runs, and is followed."""
    box = await control.create(CreateSandbox())
    async with control.store.database.write() as connection:
        await control.store.sandboxes.note(connection, box.id, keep=True)
    await put_task(
        control, box.id, lease_owner=None, lease_until=0.0, exec_id="exe_" + "a" * 22, checkpoints="turns", **values
    )
    control._supervisor.submit(TASK)
    node: ModelNode = control._fleet.nodes()[0]  # type: ignore[assignment]
    await until(lambda: asyncio.sleep(0, node.agent.readers), 5)
    return box.id


async def told(control: Control, kind: str) -> list[Event]:
    return [event for event in await control.tasks.events(TASK) if event.type == kind]


async def checkpoint(control: Control, turn: int) -> Event:
    """When this turn has one."""

    async def there() -> Event | None:
        found = [each for each in await told(control, "checkpoint") if each.data["turn"] == turn]
        return found[0] if found else None

    event: Event = await until(there, 5)
    return event


async def test_each_turn_has_one(control: Control, node: ModelNode) -> None:
    id = await running(control)
    for turn in (1, 2, 3):
        node.agent.answer()
        taken = await checkpoint(control, turn)
        record = node.records[taken.data["snapshot"]]
        assert (record.reason, record.turn, record.sandbox_id) == (SnapshotReason.CHECKPOINT, turn, id)
    assert [(entry.turn, entry.reason) for _, entry in await control.timeline(id)] == [
        (turn, SnapshotReason.CHECKPOINT) for turn in (1, 2, 3)
    ]
    assert (await control.tasks.get(TASK)).turn == 3
    assert node.agent.missed == []


async def test_what_was_forgotten_before_it_was_stored_before_it(control: Control, node: ModelNode) -> None:
    await running(control)
    for turn in (1, 2, 3):
        node.agent.answer()
        snapshot = (await checkpoint(control, turn)).data["snapshot"]
        place = await control.store.bookmarks.get(snapshot)
        frames, acked = node._frozen[snapshot]
        assert place is not None and place.turn == turn
        assert acked <= place.reader.guest_offset <= frames[-1].offset


async def test_turns_that_come_faster_share_the_last_ones(control: Control, node: ModelNode) -> None:
    await running(control)
    node.doors["hold"] = asyncio.Event()
    node.agent.answer()
    await until(lambda: asyncio.sleep(0, node.calls["hold"]), 5)
    node.agent.answer()
    node.agent.answer()
    await until(lambda: _turn(control, 3), 5)
    node.doors["hold"].set()
    await checkpoint(control, 3)
    await asyncio.sleep(0.2)
    assert [event.data["turn"] for event in await told(control, "checkpoint")] == [3]


async def _turn(control: Control, turn: int) -> bool:
    return (await control.tasks.get(TASK)).turn == turn


@pytest.mark.parametrize("error", [DiskFull("the disk is full"), LimitReached("it has its share", limit="x")])
async def test_one_that_fails_is_told_and_the_task_goes_on(
    control: Control, node: ModelNode, error: HutchError
) -> None:
    await running(control)
    node.refusals["snapshot"] = error
    node.agent.answer()
    failed = await checkpoint(control, 1)
    assert (failed.data["error"], failed.data["detail"]) == (error.code, error.detail)
    assert node.calls["release"] >= 1, "its calls are not held any longer"
    del node.refusals["snapshot"]
    node.agent.answer()
    assert "snapshot" in (await checkpoint(control, 2)).data
    node.agent.exit()
    await until(lambda: _ended(control), 5)


async def _ended(control: Control) -> bool:
    return (await control.tasks.get(TASK)).state == "succeeded"


async def test_a_guest_that_tells_of_output_that_never_comes_has_none(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_run, "_CATCH_UP", 0.2)
    await running(control)
    monkeypatch.setattr(type(node.agent), "told_end", property(lambda agent: agent.end + 1000))
    node.agent.answer("one")
    assert (await checkpoint(control, 1)).data["error"] == "guest_unavailable"
    assert node.calls["snapshot"] == 0 and node.calls["release"] == 1
    assert (await control.tasks.get(TASK)).state == "running"


async def test_none_of_an_agent_that_is_done(control: Control, node: ModelNode) -> None:
    await running(control)
    node.doors["hold"] = asyncio.Event()
    node.agent.answer()
    await until(lambda: asyncio.sleep(0, node.calls["hold"]), 5)
    node.agent.say({"type": "result", "subtype": "success", "result": "done"})
    node.doors["hold"].set()
    await until(lambda: asyncio.sleep(0, node.calls["release"]), 5)
    assert node.calls["snapshot"] == 0


async def test_an_answer_that_is_being_told_is_waited_for(control: Control, node: ModelNode) -> None:
    await running(control)

    def stream(kind: str) -> None:
        node.agent.say({"type": "stream_event", "event": {"type": kind, "message": {"id": "msg_2"}}})

    node.doors["hold"] = asyncio.Event()
    node.agent.answer()
    stream("message_start")
    node.doors["hold"].set()
    await until(lambda: asyncio.sleep(0, node.calls["release"]), 5)
    assert node.calls["snapshot"] == 0
    stream("message_stop")
    assert "snapshot" in (await checkpoint(control, 2)).data
    assert [event.data["turn"] for event in await told(control, "checkpoint")] == [2]


async def test_an_answer_that_nothing_was_told_of_is_waited_for(control: Control, node: ModelNode) -> None:
    """Codex tells of an answer when its tools start: between two rounds there may be one, unless a call is held."""
    await running(control, agent="codex")

    def tool(stage: str, id: str) -> None:
        node.agent.say({"type": f"item.{stage}", "item": {"id": id, "type": "command_execution", "command": "true"}})

    node.doors["hold"] = asyncio.Event()
    tool("started", "a")
    await until(lambda: asyncio.sleep(0, node.calls["hold"]), 5)
    tool("completed", "a")
    node.doors["hold"].set()
    await until(lambda: asyncio.sleep(0, node.calls["release"]), 5)
    assert node.calls["snapshot"] == 0, "this might be the second turn"
    tool("started", "b")
    await checkpoint(control, 2)
    node.waiting = 1
    tool("completed", "b")
    tool("started", "c")
    tool("completed", "c")
    await checkpoint(control, 3)
    assert [event.data["turn"] for event in await told(control, "checkpoint")] == [2, 3]


async def test_no_output_is_taken_while_one_is_taken(control: Control, node: ModelNode) -> None:
    await running(control)
    node.doors["snapshot"] = asyncio.Event()
    node.agent.answer()
    await until(lambda: asyncio.sleep(0, node.calls["snapshot"]), 5)
    acked = node.agent.acked
    node.agent.answer("late")  # what the agent says until it stands still
    await asyncio.sleep(0.3)
    assert node.agent.acked == acked
    node.doors["snapshot"].set()
    await checkpoint(control, 1)
    assert (await checkpoint(control, 2)).data["snapshot"]


async def test_a_pause_and_a_checkpoint_wait_for_each_other(control: Control, node: ModelNode) -> None:
    id = await running(control)
    node.doors["snapshot"] = asyncio.Event()
    node.agent.answer()
    await until(lambda: asyncio.sleep(0, node.calls["snapshot"]), 5)
    pause = asyncio.create_task(control.pause(id))
    await asyncio.sleep(0.2)
    assert node.calls["pause"] == 0
    node.doors["snapshot"].set()
    assert (await pause).state == "paused"


async def test_every_so_many_seconds(control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await running(control)
    async with control.store.database.write() as connection:
        await control.store.tasks.note(connection, TASK, checkpoints=0.2)
    await control._supervisor.restart(TASK)
    before = time.monotonic()

    async def three() -> bool:
        return len(await told(control, "checkpoint")) >= 3

    await until(three, 5)
    assert time.monotonic() - before >= 0.5
    assert {record.turn for record in node.records.values()} == {0}
