"""A sandbox with a task is paused and resumed: the task's clock, its permission, and what may not be done to it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.control.model_node import ModelNode

from hutch.control.grants import new_placeholder, seal_key
from hutch.control.service import Control
from hutch.errors import Conflict
from hutch.model import CreateSandbox, CreateSnapshot, Fork, Rollback, SandboxState
from hutch.store.tasks import TaskRow

TASK = "tsk_" + "a" * 22


async def with_task(control: Control, **fields: Any) -> str:
    """A sandbox in which an agent runs that another server looks after."""
    box = await control.create(CreateSandbox.model_validate(fields))
    await put_task(control, box.id)
    return box.id


async def put_task(control: Control, sandbox_id: str, **values: Any) -> None:
    """As the creation of a task does."""
    row = TaskRow(
        id=TASK,
        org="org_default",
        sandbox_id=sandbox_id,
        agent="claude-code",
        prompt="p",
        created_at=time.time(),
        state="running",
        step="agent",
        lease_owner="another",
        lease_until=time.time() + 1000,
        placeholder=new_placeholder(),
        sealed_llm_key=seal_key(control._context, TASK, "sk-ant-x"),
        started_at=time.time(),
    )
    row = replace(row, **values)
    async with control.store.database.write() as connection:
        await control.store.tasks.insert(connection, row, "p")
        await control.store.readers.insert(connection, TASK)


async def end(control: Control) -> None:
    async with control.store.database.write() as connection:
        await control.store.tasks.note(
            connection, TASK, step="done", state="cancelled", ended_at=time.time(), sealed_llm_key=None
        )


async def test_the_clock_of_a_task_stands_still_while_it_is_paused(control: Control) -> None:
    id = await with_task(control)
    for _ in range(2):
        await control.pause(id)
        before = (await control.tasks.get(TASK)).usage
        await asyncio.sleep(0.4)
        during = (await control.tasks.get(TASK)).usage
        assert during.run_time == pytest.approx(before.run_time, abs=0.05)
        assert during.paused_time == pytest.approx(before.paused_time + 0.4, abs=0.3)
        (listed,) = (await control.tasks.list(sandbox_id=id)).items
        assert listed.usage.run_time == pytest.approx(during.run_time, abs=0.05)
        shown = (await control.get(id)).task
        assert shown is not None and shown.usage.run_time == pytest.approx(during.run_time, abs=0.05)
        await control.resume(id)
    usage = (await control.tasks.get(TASK)).usage
    assert usage.paused_time >= 0.8
    assert usage.run_time < 0.8


async def test_a_resume_gives_the_permission_again_and_takes_it_back_when_the_task_has_ended(
    control: Control, node: ModelNode
) -> None:
    id = await with_task(control)
    await control.pause(id)
    node.grants.clear()  # a machine that was started again: they were in memory only
    await control.resume(id)
    grant = node.grants[id]
    assert grant is not None and grant.key.get_secret_value() == "sk-ant-x"
    await control.pause(id)
    await end(control)
    await control.resume(id)
    assert node.grants[id] is None


async def test_a_fork_has_neither_the_task_nor_its_permission(control: Control, node: ModelNode) -> None:
    id = await with_task(control)
    (made,) = await control.fork(id, Fork())
    assert made.task is None and node.boots[made.id].llm is None and made.id not in node.grants


async def test_a_sandbox_is_not_taken_back_to_before_its_task_while_that_goes_on(
    control: Control, node: ModelNode
) -> None:
    box = await control.create(CreateSandbox())
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    await put_task(control, box.id)
    with pytest.raises(Conflict, match="had not begun"):
        await control.rollback(box.id, Rollback(snapshot=taken.id))
    assert node.calls["rollback"] == 0
    await end(control)
    assert (await control.rollback(box.id, Rollback(snapshot=taken.id))).state is SandboxState.RUNNING


async def test_a_task_keeps_its_sandbox_awake(control: Control, node: ModelNode) -> None:
    id = await with_task(control, idle_timeout=0.5)
    async with control.store.database.write() as connection:  # or it would be ended with its task
        await control.store.sandboxes.note(connection, id, keep=True)
    await asyncio.sleep(2.5)
    assert node.calls["pause"] == 0
    await end(control)
    async with asyncio.timeout(8):
        while (await control.get(id)).state is not SandboxState.PAUSED:
            await asyncio.sleep(0.1)
