"""Sandboxes of which only the disk is kept, on a real database, over a node that does what it is told."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.control_host import until
from tests.unit.control.model_node import ModelNode
from tests.unit.control.test_checkpoints import checkpoint, running
from tests.unit.control.test_moves import EXEC, in_state, make, row, use
from tests.unit.control.test_task_moves import TASK, with_task

from hutch.control.service import Control
from hutch.errors import Conflict, ExecNotFound, FreezeFailed
from hutch.model import CreateSnapshot, Fork, Pause, Resume, Rollback, Sandbox, SandboxState, SnapshotKind, TaskState

DISK = Pause(mode=SnapshotKind.DISK)


async def shown(control: Control, *states: SandboxState) -> list[str]:
    return [box.id for box in (await control.list(states=states)).items]


async def test_a_hibernated_sandbox_is_shown_as_such_and_apart_from_paused_ones(control: Control) -> None:
    ids = [(await make(control)).id for _ in range(3)]
    assert (await control.pause(ids[0], DISK)).state is SandboxState.HIBERNATED
    await control.pause(ids[1])
    assert await shown(control, SandboxState.HIBERNATED) == [ids[0]]
    assert await shown(control, SandboxState.PAUSED) == [ids[1]]
    assert set(await shown(control, SandboxState.PAUSED, SandboxState.HIBERNATED)) == set(ids[:2])
    assert set(await shown(control, SandboxState.RUNNING, SandboxState.HIBERNATED)) == {ids[0], ids[2]}
    assert set(await shown(control)) == set(ids)
    assert (await control.pause(ids[0])).state is SandboxState.HIBERNATED  # as it is


async def test_a_resume_says_whether_memory_survived(control: Control) -> None:
    box = await make(control)
    assert box.resumed is None
    for mode in (DISK, Pause(), DISK):
        await control.pause(box.id, mode)
        back = await control.resume(box.id)
        assert back.state is SandboxState.RUNNING and back.resumed is not None
        assert back.resumed.memory is (mode != DISK)


async def test_whoever_needs_it_wakes_it_and_is_told_what_became_of_processes(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await make(control)
    await control.pause(box.id, DISK)
    await use(control, box.id)
    assert (await control.get(box.id)).state is SandboxState.RUNNING

    async def gone(*_: object) -> None:
        raise ExecNotFound(f"no exec {EXEC}")

    async with control._guests.of(box.id, "org_default") as guest:
        monkeypatch.setattr(type(guest), "process", gone)
    with pytest.raises(ExecNotFound, match="resumed from its disk, and all its processes are gone"):
        await use(control, box.id)


async def test_each_kind_of_sleep_has_its_own_meter(control: Control) -> None:
    box = await make(control)

    async def slept(mode: Pause) -> Sandbox:
        await control.pause(box.id, mode)
        await asyncio.sleep(0.3)
        await control.resume(box.id)
        return await control.get(box.id)

    usage = (await slept(DISK)).usage
    assert usage.hibernated_time >= 0.3 and usage.paused_time == 0
    usage = (await slept(Pause())).usage
    assert usage.paused_time >= 0.3 and usage.hibernated_time < 0.6
    await control.pause(box.id, DISK)
    await asyncio.sleep(0.2)
    await control.delete(box.id)
    ended = (await control.get(box.id)).usage
    assert ended.hibernated_time >= usage.hibernated_time + 0.2
    assert ended.paused_time == usage.paused_time


async def test_what_is_kept_of_it_is_metered_by_its_size(control: Control, node: ModelNode) -> None:
    box = await make(control)
    assert box.usage.stored_bytes == 0
    for size, mode in ((4_000_000, Pause()), (1000, DISK)):
        node.kept_bytes = size
        usage = (await control.pause(box.id, mode)).usage
        assert usage.stored_bytes == size
        await asyncio.sleep(0.3)
        usage = (await control.resume(box.id)).usage
        assert usage.stored_bytes == 0
    assert usage.paused_byte_seconds == pytest.approx(4_000_000 * usage.paused_time) and usage.paused_time >= 0.3
    assert usage.hibernated_byte_seconds == pytest.approx(1000 * usage.hibernated_time)
    await control.pause(box.id, DISK)
    await asyncio.sleep(0.2)
    await control.delete(box.id)
    ended = (await control.get(box.id)).usage
    assert ended.stored_bytes == 0 and ended.paused_byte_seconds == usage.paused_byte_seconds
    assert ended.hibernated_byte_seconds == pytest.approx(1000 * ended.hibernated_time)
    assert ended.hibernated_time >= usage.hibernated_time + 0.2


async def test_what_it_falls_back_to_is_kept_for_whoever_wakes_it(control: Control, node: ModelNode) -> None:
    box = await make(control)
    assert box.fallback is None
    assert (await control.pause(box.id, Pause(fallback="disk"))).fallback == "disk"
    await use(control, box.id)
    await control.pause(box.id)
    assert [wish.disk for wish in node.pauses] == [True, True]
    assert [wish.fallback for wish in node.resumes] == [True]
    other = await make(control)
    await control.pause(other.id)
    assert (await control.resume(other.id, Resume(fallback="disk"))).fallback == "disk"
    assert node.resumes[-1].fallback and not node.pauses[-1].disk


async def test_a_paused_one_that_is_to_fall_back_to_its_disk_gets_one(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await control.pause(box.id)
    for _ in range(2):  # the second has nothing to do
        paused = await control.pause(box.id, Pause(fallback="disk"))
        assert (paused.state, paused.fallback) == ("paused", "disk")
        assert [wish.disk for wish in node.pauses] == [False, True]
    other = await make(control)
    await control.pause(other.id, DISK)
    assert (await control.pause(other.id, Pause(fallback="disk"))).fallback == "disk"
    assert node.calls["resume"] == 1  # a disk is all there is of it


async def test_what_it_falls_back_to_is_not_lost_in_a_move_of_somebody_else(control: Control, node: ModelNode) -> None:
    box = await make(control)
    for first, second in ((control.pause, Pause(fallback="disk")), (control.resume, Resume(fallback="disk"))):
        name = first.__name__
        door = node.doors[name] = asyncio.Event()
        begun = node.calls[name]
        one = asyncio.ensure_future(first(box.id))
        await until(lambda: _is(node.calls[name] > begun))  # noqa: B023
        both = asyncio.ensure_future(first(box.id, second))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        door.set()
        await one
        assert (await both).fallback == "disk"
        if name == "pause":
            assert [wish.disk for wish in node.pauses] == [False, True]
        async with control.store.database.write() as connection:
            await control.store.sandboxes.note(connection, box.id, fallback=None)


async def _is(condition: bool) -> bool:
    return condition


async def test_a_task_keeps_its_memory(control: Control, node: ModelNode) -> None:
    id = await with_task(control)
    with pytest.raises(Conflict, match="goes on"):
        await control.pause(id, DISK)
    with pytest.raises(Conflict, match="goes on"):
        await control.pause(id, Pause(fallback="disk"))
    assert node.calls["pause"] == 0
    await control.pause(id)
    with pytest.raises(Conflict, match="goes on"):
        await control.resume(id, Resume(fallback="disk"))


async def test_what_cannot_be_packed_runs_on(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.refusals["pause"] = FreezeFailed("no")
    with pytest.raises(FreezeFailed):
        await control.pause(box.id, DISK)
    assert (await row(control, box.id)).state == "running"


async def test_a_server_that_dies_on_the_way_finishes_it(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.doors["pause"] = asyncio.Event()
    asleep = asyncio.create_task(control.pause(box.id, DISK))
    await in_state(control, box.id, "hibernating")
    assert (await control.get(box.id)).state is SandboxState.RUNNING
    asleep.cancel()
    node.doors["pause"].set()
    await in_state(control, box.id, "paused")
    assert (await control.get(box.id)).state is SandboxState.HIBERNATED


async def test_one_that_is_paused_is_woken_to_be_hibernated(control: Control, node: ModelNode) -> None:
    box = await make(control)
    await control.pause(box.id)
    asleep = await control.pause(box.id, DISK)
    assert asleep.state is SandboxState.HIBERNATED and asleep.snapshot == node.pauses[-1].snapshot
    assert [wish.kind for wish in node.pauses] == [SnapshotKind.FULL, SnapshotKind.DISK]
    assert node.calls["resume"] == 1
    await control.pause(box.id, DISK)
    assert node.calls["pause"] == 2


async def test_a_task_whose_sandbox_loses_its_memory_fails_and_says_so(control: Control, node: ModelNode) -> None:
    id = await running(control)
    node.agent.answer("one")
    await until(lambda: _offset(control), 5)
    async with control.store.database.write() as connection:  # chosen while no task went on: it was taken back since
        await control.store.sandboxes.note(connection, id, fallback="disk")
    await control.pause(id)
    node.fits = False
    assert (await control.resume(id)).state is SandboxState.RUNNING

    async def ended() -> bool:
        return (await control.tasks.get(TASK)).result is not None

    await until(ended, 5)
    result = (await control.tasks.get(TASK)).result
    assert result is not None and (result.state, result.error) == (TaskState.FAILED, "memory_lost")
    assert "lost its memory" in (result.detail or "")
    assert node.started == [] and node.agent.missed == []


async def _offset(control: Control) -> int:
    return (await control.store.readers.get(TASK)).guest_offset


async def test_what_is_made_of_a_snapshot_may_fall_back_to_its_disk(control: Control, node: ModelNode) -> None:
    box = await make(control)
    plain = await control.take_snapshot(box.id, CreateSnapshot())
    point = await control.take_snapshot(box.id, CreateSnapshot(fallback="disk"))
    assert [wish.disk for wish in node.snapshots_taken] == [False, True]
    made = await make(control, **{"from": point.id, "fallback": "disk"})
    (fork,) = await control.fork(box.id, Fork.model_validate({"from": point.id, "fallback": "disk"}))
    (other,) = await control.fork(box.id, Fork.model_validate({"from": plain.id}))
    assert [node.boots[each.id].fallback for each in (made, fork, other)] == [True, True, False]
    assert (made.fallback, fork.fallback, other.fallback) == ("disk", "disk", None)
    await control.rollback(box.id, Rollback(snapshot=plain.id))
    assert (await control.rollback(box.id, Rollback(snapshot=point.id, fallback="disk"))).fallback == "disk"
    assert [wish.fallback for wish in node.rollbacks] == [False, True]
    (child,) = await control.fork(box.id, Fork())
    assert child.fallback == "disk"


async def test_a_task_that_goes_back_with_its_sandbox_needs_memory(control: Control, node: ModelNode) -> None:
    id = await running(control)
    node.agent.answer("one")
    point = (await checkpoint(control, 1)).data["snapshot"]
    with pytest.raises(Conflict, match="no agent to go on"):
        await control.rollback(id, Rollback(snapshot=point, fallback="disk"))
    async with control.store.database.write() as connection:
        await control.store.sandboxes.note(connection, id, fallback="disk")
    await control.rollback(id, Rollback(turn=1))
    assert [wish.fallback for wish in node.rollbacks] == [False]
