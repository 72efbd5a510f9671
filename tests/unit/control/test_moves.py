"""Pause, resume and rollback on a real database, over a node that does what it is told when it is told."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from tests.integration.control_host import FaultyDatabase, die, quiet, until
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.errors import (
    FreezeFailed,
    GuestUnavailable,
    HutchError,
    NodeUnavailable,
    SandboxNotFound,
    SandboxNotRunning,
    ThawFailed,
)
from hutch.model import CreateSandbox, CreateSnapshot, LlmUsage, Rollback, Sandbox, SandboxState
from hutch.settings import Settings
from hutch.store.sandboxes import SandboxRow

EXEC = "exe_" + "a" * 22


async def make(control: Control, **fields: Any) -> Sandbox:
    return await control.create(CreateSandbox.model_validate(fields))


async def row(control: Control, id: str) -> SandboxRow:
    found = await control.store.sandboxes.get(id)
    assert found is not None
    return found


async def use(control: Control, id: str) -> None:
    await control.execs.get(id, EXEC)


async def in_state(control: Control, id: str, state: str) -> None:
    async def reached() -> bool:
        return (await row(control, id)).state == state

    await until(reached, 10)


async def test_a_paused_sandbox_is_shown_as_such_and_resumes(control: Control, node: ModelNode) -> None:
    box = await make(control)
    paused = await control.pause(box.id, by="key_1")
    assert (paused.state, paused.snapshot) == (SandboxState.PAUSED, node.boxes[box.id].snapshot)
    assert paused.paused_at is not None
    assert node.records[paused.snapshot or ""].created_by == "key_1"
    assert [each.id for each in (await control.list()).items] == [box.id]
    assert [each.id for each in (await control.list(states=[SandboxState.PAUSED])).items] == [box.id]
    assert (await control.list(states=[SandboxState.RUNNING])).items == []
    assert (await control.pause(box.id)).snapshot == paused.snapshot
    resumed = await control.resume(box.id)
    assert (resumed.state, resumed.snapshot, resumed.paused_at) == (SandboxState.RUNNING, None, None)
    await control.resume(box.id)
    assert (node.calls["pause"], node.calls["resume"]) == (1, 1)


async def test_paused_time_is_metered_apart(control: Control) -> None:
    box = await make(control)
    for _ in range(2):
        await control.pause(box.id)
        await asyncio.sleep(0.3)
        running = (await control.get(box.id)).usage.run_time
        await control.resume(box.id)
    usage = (await control.get(box.id)).usage
    assert 0.6 <= usage.paused_time < 2 and running <= usage.run_time
    assert usage.run_time + usage.paused_time == pytest.approx(time.time() - box.started_at.timestamp(), abs=0.2)  # type: ignore[union-attr]
    await control.pause(box.id)
    await asyncio.sleep(0.2)
    await control.delete(box.id)
    ended = await control.get(box.id)
    assert ended.usage.paused_time >= 0.8 and ended.paused_at is None
    await asyncio.sleep(0.1)
    assert (await control.get(box.id)).usage == ended.usage


async def test_what_was_used_is_shown_in_lists_and_while_it_sleeps(control: Control, node: ModelNode) -> None:
    box = await make(control)
    spent = LlmUsage(requests=2, usd=0.5)
    node.boxes[box.id] = node.boxes[box.id].model_copy(
        update={"cpu_seconds": 1.5, "memory_peak_bytes": 30 << 20, "llm": spent}
    )
    for step in (None, control.pause, control.resume):
        if step is not None:
            await step(box.id)
        shown = [await control.get(box.id), *(await control.list()).items]
        assert [(each.usage.cpu_seconds, each.usage.memory_peak_bytes) for each in shown] == [(1.5, 30 << 20)] * 2
        assert all(each.usage.llm == spent for each in shown)
    node.down = True
    assert [each.usage.cpu_seconds for each in (await control.list()).items] == [1.5]  # from the last pause


async def test_many_requests_wake_a_sandbox_once(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await use(control, box.id)
    await control.pause(box.id)
    node.doors["resume"] = asyncio.Event()
    calls = [asyncio.create_task(use(control, box.id)) for _ in range(20)]
    await in_state(control, box.id, "resuming")
    late = asyncio.create_task(use(control, box.id))
    await asyncio.sleep(0.05)
    assert not any(call.done() for call in (*calls, late))
    node.doors["resume"].set()
    await asyncio.gather(*calls, late)
    assert node.calls["resume"] == 1


async def test_looking_and_listing_wake_nobody(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await control.pause(box.id)
    await control.get(box.id)
    await control.list()
    await control.timeline(box.id)
    await control.snapshots(box.id)
    assert node.boxes[box.id].state == "paused" and node.calls["resume"] == 0


async def test_the_token_that_a_snapshot_brings_is_learnt(control: Control, node: ModelNode) -> None:
    box = await make(control)
    before = (await row(control, box.id)).guest_token
    await asyncio.gather(*(control.take_snapshot(box.id, CreateSnapshot()) for _ in range(4)))
    assert (await row(control, box.id)).guest_token == node.boxes[box.id].guest_token != before
    await use(control, box.id)
    await control.pause(box.id)
    await control.take_snapshot(box.id, CreateSnapshot())
    assert (await row(control, box.id)).guest_token is None


async def test_a_token_that_was_not_learnt_is_found_by_the_next_server(settings: Settings, node: ModelNode) -> None:
    async with controlling(settings, node) as first:
        box = await make(first)
        node.boxes[box.id] = node.boxes[box.id].model_copy(update={"guest_token": "another"})
    async with controlling(settings, node) as second:

        async def learnt() -> bool:
            return (await row(second, box.id)).guest_token == "another"

        await until(learnt, 10)
        await use(second, box.id)


async def test_two_pauses_at_once_are_one(control: Control, node: ModelNode) -> None:
    box = await make(control)
    answers = await asyncio.gather(*(control.pause(box.id) for _ in range(5)))
    assert len({answer.snapshot for answer in answers}) == 1 and node.calls["pause"] == 1


async def test_a_request_that_comes_while_it_pauses_waits_and_wakes_it(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.doors["pause"] = asyncio.Event()
    pausing = asyncio.create_task(control.pause(box.id))
    await in_state(control, box.id, "pausing")
    assert (await control.get(box.id)).state is SandboxState.RUNNING
    using = asyncio.create_task(use(control, box.id))
    await asyncio.sleep(0.05)
    assert not using.done()
    node.doors["pause"].set()
    await asyncio.gather(pausing, using)
    assert (await row(control, box.id)).state == "running"


async def test_a_call_cut_by_a_pause_says_that_it_may_be_tried_again(control: Control) -> None:
    box = await make(control)
    with pytest.raises(GuestUnavailable) as caught:
        async with control._guests.of(box.id, "org_default"):
            await control.pause(box.id)
            raise SandboxNotRunning("what the node says of a sandbox that has gone")
    assert caught.value.retryable
    await use(control, box.id)


async def test_a_delete_wins_over_a_pause(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.doors["pause"] = asyncio.Event()
    pausing = asyncio.create_task(control.pause(box.id))
    await in_state(control, box.id, "pausing")
    await control.delete(box.id)
    node.doors["pause"].set()
    with pytest.raises(SandboxNotRunning):
        await pausing
    assert (await control.get(box.id)).state is SandboxState.STOPPED and box.id not in node.boxes


@pytest.mark.parametrize("late", ["answer", "look"])
@pytest.mark.parametrize("kind", ["pause", "resume"])
async def test_an_answer_that_comes_after_the_delete_changes_nothing(
    control: Control, node: ModelNode, kind: str, late: str
) -> None:
    box = await make(control)
    if kind == "resume":
        await control.pause(box.id)
    node.doors[f"{kind} {late}"] = asyncio.Event()
    moving = asyncio.create_task(control.pause(box.id) if kind == "pause" else control.resume(box.id))
    await in_state(control, box.id, "pausing" if kind == "pause" else "resuming")
    await until(lambda: changed(node, box.id, "paused" if kind == "pause" else "running"), 5)
    await control.delete(box.id)
    ended = await row(control, box.id)
    node.doors[f"{kind} {late}"].set()
    with pytest.raises(SandboxNotRunning):
        await moving
    assert await row(control, box.id) == ended and ended.state == "stopped"


async def changed(node: ModelNode, id: str, state: str) -> bool:
    return node.boxes[id].state == state


async def test_a_delete_wins_over_a_resume_and_those_who_wait_for_it(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await control.pause(box.id)
    node.doors["resume"] = asyncio.Event()
    using = asyncio.create_task(use(control, box.id))
    await in_state(control, box.id, "resuming")
    await control.delete(box.id)
    node.doors["resume"].set()
    with pytest.raises(SandboxNotRunning):
        await using
    assert box.id not in node.boxes


async def test_a_paused_sandbox_is_deleted_without_being_woken(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await control.pause(box.id)
    await control.delete(box.id)
    assert (await control.get(box.id)).state is SandboxState.STOPPED
    assert box.id not in node.boxes and node.calls["resume"] == 0
    with pytest.raises(SandboxNotRunning):
        await control.pause(box.id)
    with pytest.raises(SandboxNotRunning):
        await control.resume(box.id)


async def test_a_paused_sandbox_has_a_lifetime_too(control: Control, node: ModelNode) -> None:
    box = await make(control, lifetime=1.0)
    await control.pause(box.id)
    await in_state(control, box.id, "stopped")
    assert box.id not in node.boxes


async def test_a_freeze_that_fails_leaves_it_running(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.refusals["pause"] = FreezeFailed("no room")
    with pytest.raises(FreezeFailed):
        await control.pause(box.id)
    await use(control, box.id)
    assert (await control.get(box.id)).state is SandboxState.RUNNING
    del node.refusals["pause"]
    assert (await control.pause(box.id)).state is SandboxState.PAUSED


async def test_a_thaw_that_fails_is_told_to_all_and_leaves_it_paused(control: Control, node: ModelNode) -> None:
    box = await make(control)
    before = (await control.pause(box.id)).snapshot
    node.refusals["resume"] = ThawFailed("damaged")
    answers = await asyncio.gather(*(use(control, box.id) for _ in range(8)), return_exceptions=True)
    assert all(isinstance(answer, ThawFailed) for answer in answers) and node.calls["resume"] == 1
    found = await control.get(box.id)
    assert (found.state, found.snapshot) == (SandboxState.PAUSED, before)
    del node.refusals["resume"]
    await use(control, box.id)


async def test_a_sandbox_that_died_meanwhile_is_found_dead(control: Control, node: ModelNode) -> None:
    box = await make(control)
    del node.boxes[box.id]
    with pytest.raises(SandboxNotRunning):
        await control.pause(box.id)
    assert (await control.get(box.id)).state is SandboxState.FAILED


async def test_what_a_node_that_goes_down_leaves_half_done_is_finished(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.doors["pause"] = asyncio.Event()
    pausing = asyncio.create_task(control.pause(box.id))
    await in_state(control, box.id, "pausing")
    node.down = True
    node.doors["pause"].set()
    with pytest.raises(NodeUnavailable):
        await pausing
    with pytest.raises(NodeUnavailable):
        await use(control, box.id)
    node.down = False
    control._reconciler.ask()  # as the journal's reader does when the node answers again
    await in_state(control, box.id, "paused")


async def test_only_what_runs_can_be_paused(control: Control, node: ModelNode) -> None:
    node.doors["boot"] = asyncio.Event()
    making = asyncio.create_task(make(control, labels={"of": "me"}))
    (starting,) = await until(lambda: listed(control))
    with pytest.raises(SandboxNotRunning):
        await control.pause(starting.id)
    node.doors["boot"].set()
    await making
    for call in (control.pause(starting.id, org="org_b"), control.resume(starting.id, org="org_b")):
        with pytest.raises(SandboxNotFound):
            await call


async def listed(control: Control) -> list[Sandbox]:
    return (await control.list()).items


async def test_a_row_that_a_power_cut_took_back_follows_the_node(control: Control, node: ModelNode) -> None:
    box = await make(control)
    found = await row(control, box.id)
    await control.pause(box.id)
    paused = await row(control, box.id)
    await control.store.sandboxes.change(
        box.id, paused.version, state="running", snapshot=None, paused_at=None, guest_token=found.guest_token
    )
    control._reconciler.ask()
    await in_state(control, box.id, "paused")
    await use(control, box.id)


MOVES = ["pause", "resume", "rollback"]


async def move(control: Control, kind: str, id: str, snapshot: str) -> None:
    if kind == "pause":
        await control.pause(id)
    elif kind == "resume":
        await control.resume(id)
    else:
        await control.rollback(id, Rollback(snapshot=snapshot))


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [1, 2])
async def test_a_server_killed_at_any_write_of_a_move(
    settings: Settings, node: ModelNode, kind: str, write: int, committed: bool
) -> None:
    first = Control(settings, _fleet(node))
    await first.start()
    box = await make(first)
    snapshot = (await first.take_snapshot(box.id, CreateSnapshot())).id
    if kind == "resume":
        await first.pause(box.id)
    await quiet(first.store.database)
    faulty = FaultyDatabase(first.store.database, write, committed)
    moving = asyncio.create_task(move(first, kind, box.id, snapshot))
    await asyncio.wait_for(faulty.died.wait(), 10)
    moving.cancel()
    await die(first)
    await asyncio.gather(moving, return_exceptions=True)
    async with controlling(settings, node) as second:
        await second._reconciler.run()
        found = await row(second, box.id)
        assert found.state in ("running", "paused") and found.state == node.boxes[box.id].state
        if (write, committed) == (1, False):
            assert found.state == ("paused" if kind == "resume" else "running")
        else:
            assert found.state == ("paused" if kind == "pause" else "running")
        await use(second, box.id)
        assert (await second.get(box.id)).state is SandboxState.RUNNING


def _fleet(node: ModelNode) -> Any:
    from tests.unit.control.model_node import ModelFleet

    return ModelFleet(node)


@pytest.mark.parametrize("error", [ThawFailed("x"), NodeUnavailable("x")], ids=["refused", "down"])
async def test_a_rollback_that_fails_leaves_it_as_it_was(control: Control, node: ModelNode, error: HutchError) -> None:
    box = await make(control)
    snapshot = (await control.take_snapshot(box.id, CreateSnapshot())).id
    await control.pause(box.id)
    node.refusals["rollback"] = error
    with pytest.raises(type(error)):
        await control.rollback(box.id, Rollback(snapshot=snapshot))
    del node.refusals["rollback"]
    await control._moves.settled(box.id)
    expected = SandboxState.PAUSED if isinstance(error, ThawFailed) else SandboxState.RUNNING
    assert (await control.get(box.id)).state is expected


async def test_a_pause_that_joins_one_that_is_called_off_pauses(control: Control, node: ModelNode) -> None:
    box = await make(control)
    asked, told = asyncio.Event(), list[asyncio.Task[Sandbox]]()

    def used() -> bool:
        """At the last moment at which it can be left running somebody asks for a pause, and joins this one."""
        assert control._moves.under_way(box.id)
        asked.set()
        return True

    change = control.store.sandboxes.change

    async def changing(id: str, version: int, **values: Any) -> bool:
        if values.get("state") == "running" and asked.is_set() and not told:
            told.append(asyncio.ensure_future(control.pause(box.id)))
            await asyncio.sleep(0.05)
        return await change(id, version, **values)

    control.store.sandboxes.change = changing  # type: ignore[method-assign]
    assert (await control._moves.pause(box.id, unless=used)).state == "running"
    assert (await told[0]).state == "paused" and node.calls["pause"] == 1


async def test_what_is_paused_outlasts_a_power_cut_in_the_database_too(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of SQLite is on the disk, with the row in it, before the node is asked."""
    box = await make(control)
    synced = list[int]()
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        fsync(descriptor)
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("hutch.db-wal"):
            synced.append(node.calls["pause"])

    monkeypatch.setattr(os, "fsync", syncing)
    await control.pause(box.id)
    assert synced == [0]


async def test_a_paused_sandbox_that_no_row_knows_is_kept(control: Control, node: ModelNode) -> None:
    boxes = [await make(control) for _ in range(3)]
    await control.pause(boxes[0].id)
    await control.pause(boxes[2].id)
    async with control.store.database.write() as connection:
        for box in boxes[:2]:  # as in an older copy of the database
            await connection.execute(text("DELETE FROM sandboxes WHERE id = :id").bindparams(id=box.id))
    reconciler = control._reconciler
    with capture_logs() as logs:
        await reconciler.run()
        await reconciler.run()
    assert set(node.boxes) == {boxes[0].id, boxes[2].id}  # nobody's, and running: it costs
    assert [line["id"] for line in logs if line["log_level"] == "error"] == [boxes[0].id]
    assert node.orphans == [boxes[0].id]
    del node.boxes[boxes[0].id]  # removed there
    await reconciler.run()
    assert node.orphans == []
