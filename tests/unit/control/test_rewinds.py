"""A task is taken back to where it was at a snapshot: on a real database, over a node and an agent that do what they
are told when they are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.integration.control_host import FaultyDatabase, die, until
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode
from tests.unit.control.test_checkpoints import checkpoint, running, told
from tests.unit.control.test_task_moves import TASK

from hutch.control.rewinds import Rewinds
from hutch.control.service import Control
from hutch.errors import Conflict, InternalError, NodeUnavailable, SandboxNotRunning, SnapshotNotFound, ThawFailed
from hutch.model import CreateSnapshot, Rollback, SnapshotReason, TaskState
from hutch.settings import Settings
from hutch.store.engine import DatabaseFull
from hutch.store.readers import ReaderRow
from hutch.store.tasks import LeaseLost


async def turns(control: Control, node: ModelNode, first: int, last: int) -> None:
    """The agent takes these, and each has its checkpoint."""
    for turn in range(first, last + 1):
        node.agent.answer(f"turn {turn}")
        await checkpoint(control, turn)


async def texts(control: Control) -> list[str]:
    """What the agent has said, by the events."""
    return [event.data["text"] for event in await told(control, "agent_message_chunk")]


async def at_rest(control: Control, node: ModelNode) -> ReaderRow:
    """When all output is stored."""

    async def stored() -> ReaderRow | None:
        row = await control.store.readers.get(TASK)
        return row if row.guest_offset == node.agent.end else None

    row: ReaderRow = await until(stored, 5)
    return row


async def in_state(control: Control, *states: TaskState) -> None:
    async def reached() -> bool:
        task = await control.store.tasks.get(TASK)
        return task is not None and task.state in states and task.step != "release"

    await until(reached, 5)


async def test_back_to_a_turn_and_on_from_there(control: Control, node: ModelNode) -> None:
    await running(control)
    await turns(control, node, 1, 4)
    task = await control.tasks.rollback(TASK, Rollback(turn=2), by="key_1")
    assert (task.turn, task.state) == (2, TaskState.RUNNING)
    (back,) = await told(control, "rolled_back")
    assert back.data["turn"] == 2 and node.records[back.data["snapshot"]].turn == 2
    assert node.records[back.data["safety"]].reason is SnapshotReason.SAFETY
    assert node.records[back.data["safety"]].created_by == "key_1"
    node.agent.answer("turn 3 again")
    await at_rest(control, node)
    assert await texts(control) == ["turn 1", "turn 2", "turn 3", "turn 4", "turn 3 again"]
    events = await control.tasks.events(TASK)
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    node.agent.say({"type": "result", "subtype": "success", "result": "done"})
    node.agent.exit()
    await in_state(control, TaskState.SUCCEEDED)
    assert (await control.tasks.get(TASK)).turn == 3
    assert node.agent.missed == [], "the spool of then has all that is read from it"


async def test_a_rollback_to_the_safety_snapshot_undoes_it(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 3)
    before = await at_rest(control, node)
    await control.rollback(id, Rollback(turn=1))
    (back,) = await told(control, "rolled_back")
    await control.rollback(id, Rollback(snapshot=back.data["safety"]))
    after = await at_rest(control, node)
    assert (after.guest_offset, after.outcome) == (before.guest_offset, before.outcome)
    assert (await control.tasks.get(TASK)).turn == 3
    assert node.agent.missed == []


async def test_a_turn_is_that_of_the_line_that_it_is_on(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 3)
    first = {event.data["turn"]: event.data["snapshot"] for event in await told(control, "checkpoint")}
    await control.rollback(id, Rollback(turn=1))
    node.agent.answer("other 2")
    await until(lambda: _many(control, 4), 5)
    second = (await told(control, "checkpoint"))[-1].data
    assert second["turn"] == 2
    await control.rollback(id, Rollback(turn=2))
    assert (await told(control, "rolled_back"))[-1].data["snapshot"] == second["snapshot"]
    await control.rollback(id, Rollback(turn=3))  # which only the line that was left has
    assert (await told(control, "rolled_back"))[-1].data["snapshot"] == first[3]
    await control.rollback(id, Rollback(turn=2))
    assert (await told(control, "rolled_back"))[-1].data["snapshot"] == first[2]


async def _many(control: Control, count: int) -> bool:
    return len(await told(control, "checkpoint")) >= count


async def test_a_turn_without_a_checkpoint_is_named_with_those_that_have_one(control: Control, node: ModelNode) -> None:
    id = await running(control)
    with pytest.raises(SnapshotNotFound) as none:
        await control.rollback(id, Rollback(turn=1))
    assert none.value.hint == "None was taken yet."
    await turns(control, node, 1, 2)
    with pytest.raises(SnapshotNotFound, match="turn 7") as error:
        await control.rollback(id, Rollback(turn=7))
    assert error.value.hint == "Turns with one: 1, 2."
    gone = (await told(control, "checkpoint"))[0].data["snapshot"]
    await control.delete_snapshot(gone)
    with pytest.raises(SnapshotNotFound, match="turn 1"):
        await control.rollback(id, Rollback(turn=1))
    assert node.calls["rollback"] == 0


async def test_one_that_fails_leaves_the_task_as_it_was(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    before = await at_rest(control, node)
    node.refusals["rollback"] = ThawFailed("torn; it runs on as it was")
    with pytest.raises(ThawFailed):
        await control.rollback(id, Rollback(turn=1))
    task = await control.store.tasks.get(TASK)
    assert task is not None and (task.step, task.state, task.turn, task.rewind) == ("agent", "running", 2, None)
    assert await told(control, "rolled_back") == []
    assert await control.store.readers.get(TASK) == before
    node.agent.answer("on")
    await until(lambda: _said(control, "on"), 5)


async def _said(control: Control, text: str) -> bool:
    return text in await texts(control)


async def test_a_task_that_has_ended_runs_again(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    node.agent.say({"type": "result", "subtype": "error_during_execution", "is_error": True, "result": "lost"})
    node.agent.exit(1)
    await in_state(control, TaskState.FAILED)
    await asyncio.sleep(0.5)
    spent = (await control.tasks.get(TASK)).usage.run_time
    assert node.grants[id] is None
    begin = time.monotonic()
    back = await control.tasks.rollback(TASK, Rollback(turn=1))
    took = time.monotonic() - begin
    assert (back.state, back.result, back.ended_at, back.turn) == (TaskState.RUNNING, None, None, 1)
    assert spent <= back.usage.run_time < spent + took + 0.4, "the time after its end is none of its own"
    grant = node.grants[id]
    assert grant is not None and grant.key.get_secret_value() == "sk-ant-x"
    node.agent.say({"type": "result", "subtype": "success", "result": "found"})
    node.agent.exit(0)
    await in_state(control, TaskState.SUCCEEDED)
    done = await control.tasks.get(TASK)
    assert done.result is not None and (done.result.text, done.result.error) == ("found", None)
    assert [event.data["state"] for event in await told(control, "result")] == ["failed", "succeeded"]
    async with asyncio.timeout(5):
        followed = [event.offset async for event in await control.tasks.follow(TASK)]
    stored = [event.offset for event in await control.tasks.events(TASK)]
    assert followed == stored, "a result taken back ends no stream"


async def test_an_ended_task_whose_rollback_fails_has_ended_as_it_had(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    node.agent.exit(3)
    await in_state(control, TaskState.FAILED)
    before = await control.tasks.get(TASK)
    node.refusals["rollback"] = ThawFailed("torn")
    with pytest.raises(ThawFailed):
        await control.rollback(id, Rollback(turn=1))
    await in_state(control, TaskState.FAILED)
    after = await control.tasks.get(TASK)
    assert (after.result, after.ended_at, after.usage) == (before.result, before.ended_at, before.usage)
    assert node.grants[id] is None


async def test_undone_an_ended_task_has_ended_again(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    node.agent.say({"type": "result", "subtype": "success", "result": "first"})
    node.agent.exit(0)
    await in_state(control, TaskState.SUCCEEDED)
    await control.rollback(id, Rollback(turn=1))
    (back,) = await told(control, "rolled_back")
    await control.rollback(id, Rollback(snapshot=back.data["safety"]))
    await in_state(control, TaskState.SUCCEEDED)
    result = (await control.tasks.get(TASK)).result
    assert result is not None and result.text == "first"


async def test_of_two_at_once_one_is_refused(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    node.doors["rollback"] = asyncio.Event()
    first = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
    await until(lambda: asyncio.sleep(0, node.calls["rollback"]), 5)
    with pytest.raises(Conflict, match="just being taken back"):
        await control.rollback(id, Rollback(turn=2))
    node.doors["rollback"].set()
    await first
    assert (await control.tasks.get(TASK)).turn == 1


async def test_cancelled_on_the_way_it_is_cancelled_when_it_is_there(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    node.doors["rollback"] = asyncio.Event()
    back = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
    await until(lambda: asyncio.sleep(0, node.calls["rollback"]), 5)
    await control.tasks.cancel(TASK)
    node.doors["rollback"].set()
    await back
    await in_state(control, TaskState.CANCELLED)


async def test_deleted_on_the_way_it_is_gone(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    node.doors["rollback"] = asyncio.Event()
    back = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
    await until(lambda: asyncio.sleep(0, node.calls["rollback"]), 5)
    await control.delete(id)
    node.doors["rollback"].set()
    with pytest.raises(SandboxNotRunning):
        await back
    await in_state(control, TaskState.CANCELLED)


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("write", range(1, 7))
async def test_a_server_killed_at_any_write_leaves_it_to_the_next(
    settings: Settings, node: ModelNode, write: int, committed: bool
) -> None:
    async with controlling(settings, node) as control:
        id = await running(control)
        await turns(control, node, 1, 3)
        await at_rest(control, node)
        faulty = FaultyDatabase(control.store.database, write, committed)
        back = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
        await asyncio.wait({back, asyncio.create_task(faulty.died.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await die(control, back)
    async with controlling(settings, node) as control:

        async def arrived() -> bool:
            task = await control.store.tasks.get(TASK)
            return task is not None and task.step == "agent"

        await until(arrived, 10)
        begun = write > 1 or committed
        assert len(await told(control, "rolled_back")) == begun
        assert (await control.tasks.get(TASK)).turn == (1 if begun else 3)
        node.agent.answer("on")
        await until(lambda: _said(control, "on"), 5)
        assert node.agent.missed == []
        safeties = [record for record in node.records.values() if record.reason is SnapshotReason.SAFETY]
        assert len(safeties) == begun, "one, however often it was begun"


async def test_a_node_that_is_down_has_it_done_when_it_is_back(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    node.refusals["rollback"] = NodeUnavailable("the node does not answer")
    with pytest.raises(NodeUnavailable):
        await control.rollback(id, Rollback(turn=1))
    del node.refusals["rollback"]

    async def arrived() -> bool:
        return bool(await told(control, "rolled_back"))

    await until(arrived, 10)
    assert (await control.tasks.get(TASK)).turn == 1


async def test_of_a_paused_sandbox(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    await control.pause(id)
    await control.rollback(id, Rollback(turn=1))
    assert (await control.get(id)).state == "running" and (await control.tasks.get(TASK)).turn == 1
    node.agent.answer("on")
    await until(lambda: _said(control, "on"), 5)
    assert node.agent.missed == []


async def test_to_a_snapshot_that_a_person_has_taken(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    taken = await control.take_snapshot(id, CreateSnapshot(name="here"))
    await turns(control, node, 2, 2)
    await control.rollback(id, Rollback(snapshot=taken.id))
    assert (await control.tasks.get(TASK)).turn == 1
    assert node.agent.missed == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"budget": {"llm_tokens": 100}, "usage": {"llm": {"input_tokens": 100}}}, "tokens is used up"),
        ({"sealed_llm_key": None}, "key of tsk_a* was not kept"),
    ],
)
async def test_what_speaks_against_it(control: Control, node: ModelNode, columns: dict[str, Any], words: str) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    async with control.store.database.write() as connection:
        await control.store.tasks.note(connection, TASK, **columns)
    with pytest.raises(Conflict, match=words):
        await control.rollback(id, Rollback(turn=1))
    assert node.calls["rollback"] == 0


async def test_not_of_one_that_goes_with_its_task(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    async with control.store.database.write() as connection:
        await control.store.sandboxes.note(connection, id, keep=False)
        await control.store.tasks.note(connection, TASK, step="release", state="succeeded", ended_at=time.time())
    with pytest.raises(SandboxNotRunning, match="goes with it"):
        await control.rollback(id, Rollback(turn=1))


async def test_the_key_goes_with_the_sandbox(control: Control, node: ModelNode) -> None:
    id = await running(control)
    node.agent.exit(0)
    await in_state(control, TaskState.SUCCEEDED)
    kept = await control.store.tasks.get(TASK)
    assert kept is not None and kept.sealed_llm_key is not None
    await control.delete(id)
    gone = await control.store.tasks.get(TASK)
    assert gone is not None and gone.sealed_llm_key is None


@pytest.mark.parametrize("columns", [{}, {"budget": {"llm_tokens": 100}, "usage": {"llm": {"input_tokens": 100}}}])
async def test_to_a_point_after_its_end_a_task_does_not_go_along(
    control: Control, node: ModelNode, columns: dict[str, Any]
) -> None:
    id = await ended(control, node, "first")
    taken = await control.take_snapshot(id, CreateSnapshot(name="here"))
    async with control.store.database.write() as connection:
        await control.store.tasks.note(connection, TASK, turn=1, **columns)
    before, grant = await control.tasks.get(TASK), node.grants[id]
    await control.rollback(id, Rollback(snapshot=taken.id))
    assert node.calls["rollback"] == 1 and (await control.get(id)).state == "running"
    assert await control.tasks.get(TASK) == before and node.grants[id] == grant
    assert len(await told(control, "result")) == 1 and await told(control, "rolled_back") == []


async def test_to_a_point_after_another_end_of_it_a_task_goes_along(control: Control, node: ModelNode) -> None:
    id = await ended(control, node, "first")
    taken = await control.take_snapshot(id, CreateSnapshot(name="here"))
    await control.rollback(id, Rollback(turn=1))
    await end(control, node, "second")
    await control.rollback(id, Rollback(snapshot=taken.id))
    await in_state(control, TaskState.SUCCEEDED)
    result = (await control.tasks.get(TASK)).result
    assert result is not None and result.text == "first"


async def ended(control: Control, node: ModelNode, text: str) -> str:
    """The sandbox of a task that has taken a turn, and has ended."""
    id = await running(control)
    await turns(control, node, 1, 1)
    await end(control, node, text)
    return id


async def end(control: Control, node: ModelNode, text: str) -> None:
    node.agent.say({"type": "result", "subtype": "success", "result": text})
    node.agent.exit(0)
    await in_state(control, TaskState.SUCCEEDED)


@pytest.mark.parametrize("wrong", [InternalError("it is not known any more"), RuntimeError("our own fault")])
async def test_whatever_goes_wrong_on_arrival_who_asked_is_told_and_it_can_be_tried_again(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch, wrong: Exception
) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Rewinds, "_arrive", raising(wrong))
        async with asyncio.timeout(5):
            with pytest.raises(InternalError):
                await control.rollback(id, Rollback(turn=1))
        await in_state(control, TaskState.FAILED)
    async with asyncio.timeout(5):
        await control.rollback(id, Rollback(turn=1))
    assert (await control.tasks.get(TASK)).state is TaskState.RUNNING


async def test_who_asked_is_told_when_another_worker_has_it(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Rewinds, "_arrive", raising(LeaseLost(TASK)))
        async with asyncio.timeout(5):
            with pytest.raises(Conflict, match="just being taken back"):
                await control.rollback(id, Rollback(turn=1))
    await until(lambda: _arrived(control), 10)


async def test_a_database_that_is_full_is_waited_for(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await running(control)
    await turns(control, node, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Rewinds, "_arrive", raising(DatabaseFull("no room")))
        back = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
        await until(lambda: asyncio.sleep(0, node.calls["rollback"] > 1), 5)
        assert not back.done()
    await asyncio.wait_for(back, 10)
    assert await _arrived(control)


async def _arrived(control: Control) -> bool:
    return bool(await told(control, "rolled_back"))


def raising(error: Exception) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object) -> None:
        raise error

    return fail
