"""Paused time is counted from when the node has frozen a sandbox until when it has thawed it, also where the server or
the node was gone for hours on the way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.integration.control_host import until
from tests.unit.control.model_node import ModelNode
from tests.unit.control.test_checkpoints import running
from tests.unit.control.test_rewinds import turns
from tests.unit.control.test_task_moves import TASK, with_task

from hutch.control.service import Control
from hutch.errors import ThawFailed
from hutch.model import Rollback, new_id


async def note(control: Control, sandbox_id: str, task: dict[str, Any], **sandbox: Any) -> None:
    """As it was written down before the server went."""
    async with control.store.database.write() as connection:
        await control.store.tasks.note(connection, TASK, **task)
        await control.store.sandboxes.note(connection, sandbox_id, **sandbox)


async def test_a_server_that_was_gone_while_it_ran_counts_that_as_run_time(control: Control, node: ModelNode) -> None:
    id, now = await with_task(control), time.time()
    node._set(id, since=now - 3600, resumed_memory=True)
    task = {"started_at": now - 5000}
    await note(control, id, task, started_at=now - 5000, state="resuming", paused_at=now - 4000)
    box = await control.resume(id)
    usage = (await control.tasks.get(TASK)).usage
    assert usage.paused_time == pytest.approx(400, abs=5)
    assert usage.run_time == pytest.approx(4600, abs=5)
    assert box.usage.paused_time == pytest.approx(400, abs=5)
    assert box.resumed is not None and box.resumed.at.timestamp() == pytest.approx(now - 3600)


async def test_a_node_that_was_gone_after_a_freeze_does_not_have_it_counted(control: Control, node: ModelNode) -> None:
    id, now, taking = await with_task(control), time.time(), new_id("snp")
    node._set(id, since=now - 3600, state="paused", snapshot=taking)
    await note(control, id, {"started_at": now - 5000}, started_at=now - 5000, state="pausing", taking=taking)
    box = await control.pause(id)
    assert box.paused_at is not None and box.paused_at.timestamp() == pytest.approx(now - 3600)
    await control.resume(id)
    usage = (await control.tasks.get(TASK)).usage
    assert usage.paused_time == pytest.approx(3600, abs=5)
    assert usage.run_time == pytest.approx(1400, abs=5)


async def test_a_clock_of_the_node_that_is_ahead_makes_no_time(control: Control, node: ModelNode) -> None:
    id, now = await with_task(control), time.time()
    node._set(id, since=now + 3600)
    await note(control, id, {"started_at": now - 50}, started_at=now - 50, state="resuming", paused_at=now - 40)
    await control.resume(id)
    assert (await control.tasks.get(TASK)).usage.paused_time == pytest.approx(40, abs=5)


async def test_what_a_task_slept_before_it_ended_asleep_is_no_run_time_after(control: Control) -> None:
    id, now = await with_task(control), time.time()
    await control.pause(id)
    task = {"started_at": now - 500, "ended_at": now - 100, "step": "done", "state": "cancelled"}
    await note(control, id, task, started_at=now - 500, paused_at=now - 300)
    await control.resume(id)
    usage = (await control.tasks.get(TASK)).usage
    assert (usage.run_time, usage.paused_time) == (pytest.approx(200, abs=5), pytest.approx(200, abs=5))


async def test_a_rollback_that_fails_takes_no_paused_time_back(control: Control, node: ModelNode) -> None:
    id = await running(control)
    await turns(control, node, 1, 1)
    node.doors["rollback"], node.refusals["rollback"] = asyncio.Event(), ThawFailed("torn")
    back = asyncio.create_task(control.rollback(id, Rollback(turn=1)))
    await until(lambda: asyncio.sleep(0, node.calls["rollback"]), 5)
    task = await control.store.tasks.get(TASK)
    assert task is not None
    await note(control, id, {"usage": task.usage | {"paused_time": 77.0}}, keep=True)
    node.doors["rollback"].set()
    with pytest.raises(ThawFailed):
        await back
    assert (await control.tasks.get(TASK)).usage.paused_time == pytest.approx(77.0)
