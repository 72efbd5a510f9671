"""Pause, resume, snapshot, rollback and fork of real sandboxes, as the server sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.integration.control_host import assert_whole, controlled, die, finished, printed, settings_of, until
from tests.node_host import NodeHost

from hutch.control.service import Control
from hutch.errors import Conflict, SandboxNotRunning, SnapshotNotFound
from hutch.model import (
    CreateSandbox,
    CreateSnapshot,
    ExecRequest,
    Fork,
    Rollback,
    Sandbox,
    SandboxState,
    SnapshotReason,
    TaskState,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

COUNT = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done"


@pytest.fixture
async def control(shared_node: NodeHost) -> AsyncIterator[Control]:
    async with controlled(shared_node) as made:
        yield made


async def sh(control: Control, id: str, command: str) -> str:
    ran = await control.execs.run(id, ExecRequest(command=command))
    assert ran.exit_code == 0, ran.stderr
    return ran.stdout.strip()


async def in_state(control: Control, id: str, state: SandboxState) -> None:
    async def reached() -> bool:
        return (await control.get(id)).state is state

    await until(reached)


async def test_a_command_goes_on_after_a_pause_and_its_reader_reads_on(control: Control) -> None:
    box = await control.create(CreateSandbox())
    stream = await control.execs.stream(box.id, ExecRequest(command=COUNT))
    numbers: list[int] = []

    async def read() -> None:
        async for frame in stream:
            if frame.type == "stdout":
                numbers.extend(int(line) for line in (frame.data or "").split())

    reading = asyncio.create_task(read())

    async def some() -> bool:
        return len(numbers) >= 5

    await until(some)
    await control.pause(box.id)
    seen = len(numbers)
    await asyncio.sleep(1.5)
    assert (await control.get(box.id)).state is SandboxState.PAUSED, "a reader must not wake it"
    assert len(numbers) <= seen + 5
    assert await sh(control, box.id, "echo woken") == "woken"
    seen = len(numbers)

    async def more() -> bool:
        return len(numbers) >= seen + 10

    await until(more)
    assert numbers == list(range(1, len(numbers) + 1))
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await stream.aclose()
    await control.delete(box.id)


async def test_a_task_that_is_paused_goes_on_and_its_time_stands_still(control: Control) -> None:
    made = await control.create(
        CreateSandbox.model_validate(
            {
                "agent": "command",
                "task": "for i in $(seq 10); do echo $i; sleep 0.1; done; echo done > out",
                "outputs": ["out"],
                "budget": {"run_time": 4},
            }
        )
    )
    assert made.task is not None
    task_id = made.task.id

    async def printing() -> bool:
        return "3" in printed(list(await control.tasks.events(task_id)))

    await until(printing)
    await control.pause(made.id)
    await asyncio.sleep(4)
    assert (await control.tasks.get(task_id)).state is TaskState.RUNNING
    assert (await control.get(made.id)).state is SandboxState.PAUSED
    await control.resume(made.id)
    task, events = await finished(control, task_id)
    assert task.state is TaskState.SUCCEEDED, task.result
    assert_whole(events)
    assert printed(events) == [str(number) for number in range(1, 11)]
    assert [file.path for file in task.outputs] == ["out"]
    assert task.usage.paused_time >= 3.5 and task.usage.run_time < 4


async def test_a_task_whose_sandbox_comes_back_without_memory_fails_with_its_outputs(
    control: Control, shared_node: NodeHost
) -> None:
    wish = {
        "agent": "command",
        "task": "echo here > out; echo ready; sleep 600",
        "outputs": ["out"],
        "fallback": "disk",
    }
    made = await control.create(CreateSandbox.model_validate(wish))
    assert made.task is not None and made.fallback == "disk"
    task_id = made.task.id

    async def ready() -> bool:
        return "ready" in printed(list(await control.tasks.events(task_id)))

    await until(ready)
    paused = await control.pause(made.id)
    manifest = shared_node.node_dir / f"snapshots/hot/{paused.snapshot}/manifest.json"
    said = json.loads(manifest.read_text())
    said["origin"]["version"] = "release-20990101"
    manifest.write_text(json.dumps(said))
    resumed = (await control.resume(made.id)).resumed
    assert resumed is not None and resumed.memory is False
    task, events = await finished(control, task_id)
    assert task.result is not None and (task.state, task.result.error) == (TaskState.FAILED, "memory_lost")
    assert printed(events) == ["ready"], "it was not started again"
    assert [file.path for file in task.outputs] == ["out"]
    assert_whole(events)


async def test_a_paused_task_that_is_cancelled_is_woken_for_its_outputs(control: Control) -> None:
    made = await control.create(
        CreateSandbox.model_validate(
            {"agent": "command", "task": "echo here > out; echo ready; sleep 600", "outputs": ["out"]}
        )
    )
    assert made.task is not None
    task_id = made.task.id

    async def ready() -> bool:
        return "ready" in printed(list(await control.tasks.events(task_id)))

    await until(ready)
    await control.pause(made.id)
    await control.tasks.cancel(task_id)
    task, _ = await finished(control, task_id)
    assert task.state is TaskState.CANCELLED and [file.path for file in task.outputs] == ["out"]
    await in_state(control, made.id, SandboxState.STOPPED)


async def test_rollback_brings_back_files_and_processes(control: Control) -> None:
    box = await control.create(CreateSandbox())
    await sh(control, box.id, "echo one > a")
    counter = await control.execs.start(box.id, ExecRequest(command="sleep 1000"))
    first = await control.take_snapshot(box.id, CreateSnapshot(name="first"), by="key_me")
    assert first.stopped_ms > 0 and (first.name, first.created_by, first.sandbox_id) == ("first", "key_me", box.id)
    await sh(control, box.id, "echo two > a; touch b")
    await control.execs.signal(box.id, counter.id, "KILL")
    back = await control.rollback(box.id, Rollback(snapshot=first.id))
    assert back.state is SandboxState.RUNNING and back.id == box.id
    assert await sh(control, box.id, "cat a; ls") == "one\na"
    assert (await control.execs.get(box.id, counter.id)).running
    tree = await control.timeline(box.id)
    assert [(each.reason, each.parent) for _, each in tree][:2] == [
        (SnapshotReason.MANUAL, None),
        (SnapshotReason.SAFETY, first.id),
    ]
    safety = tree[1][1]
    await control.pause(box.id)
    await control.rollback(box.id, Rollback(snapshot=safety.id))
    assert await sh(control, box.id, "cat a; ls") == "two\na\nb"
    other = await control.create(CreateSandbox())
    with pytest.raises(Conflict):
        await control.rollback(other.id, Rollback(snapshot=first.id))
    with pytest.raises(SnapshotNotFound):
        await control.snapshot(first.id, org="org_b")
    await asyncio.gather(control.delete(box.id), control.delete(other.id))


async def test_forks_go_on_by_themselves(control: Control) -> None:
    box = await control.create(CreateSandbox(labels={"team": "a"}, idle_timeout=500))
    await sh(control, box.id, "echo shared > a")
    made = await control.fork(box.id, Fork(count=3), by="key_me")
    assert len({each.id for each in made} | {box.id}) == 4
    assert all(each.state is SandboxState.RUNNING and each.labels == {"team": "a"} for each in made)
    assert all(each.idle_timeout == 500 and each.resources == box.resources for each in made)
    for number, each in enumerate(made):
        assert (await sh(control, each.id, "cat a")) == "shared"
        await sh(control, each.id, f"echo {number} > a")
    assert [await sh(control, each.id, "cat a") for each in (box, *made)] == ["shared", "0", "1", "2"]
    ((_, source),) = await control.timeline(made[0].id)
    assert (source.reason, source.sandbox_id) == (SnapshotReason.FORK, box.id)
    again = await control.create(CreateSandbox.model_validate({"from": source.id}))
    assert await sh(control, again.id, "cat a") == "shared"
    await asyncio.gather(*(control.delete(each.id) for each in (box, *made, again)))


async def test_a_snapshot_that_a_paused_sandbox_stands_on_is_kept(control: Control) -> None:
    box = await control.create(CreateSandbox())
    paused = await control.pause(box.id)
    assert paused.snapshot is not None
    assert paused.usage.stored_bytes == (await control.snapshot(paused.snapshot)).bytes > 0
    with pytest.raises(Conflict):
        await control.delete_snapshot(paused.snapshot)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    await control.delete_snapshot(taken.id)
    assert [each.id for each in await control.snapshots(box.id)] == [paused.snapshot]
    await control.delete(box.id)


async def test_a_server_that_is_killed_while_it_pauses(shared_node: NodeHost) -> None:
    first = Control(settings_of(shared_node))
    await first.start()
    box = await first.create(CreateSandbox())
    await sh(first, box.id, "echo kept > a")
    pausing = asyncio.create_task(first.pause(box.id))

    async def under_way() -> bool:
        found = await first.store.sandboxes.get(box.id)
        return found is not None and found.state != "running"

    await until(under_way)
    await die(first)
    pausing.cancel()
    await asyncio.gather(pausing, return_exceptions=True)
    async with controlled(shared_node) as second:
        await in_state(second, box.id, SandboxState.PAUSED)
        assert await sh(second, box.id, "cat a") == "kept"
        await second.delete(box.id)


async def test_a_paused_sandbox_outlives_the_node_and_is_deleted_in_its_sleep(
    control: Control, shared_node: NodeHost
) -> None:
    boxes = [await control.create(CreateSandbox()) for _ in range(2)]
    await sh(control, boxes[0].id, "echo kept > a")
    await asyncio.gather(*(control.pause(box.id) for box in boxes))
    await asyncio.to_thread(shared_node.kill)
    await asyncio.to_thread(shared_node.start)
    assert await until(lambda: answer(control, boxes[0])) == "kept"
    await control.delete(boxes[1].id)
    with pytest.raises(SandboxNotRunning):
        await sh(control, boxes[1].id, "true")
    await control.delete(boxes[0].id)


async def answer(control: Control, box: Sandbox) -> str:
    try:
        return await sh(control, box.id, "cat a")
    except Exception:
        return ""
