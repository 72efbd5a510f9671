"""Sandboxes that nobody uses are paused, and no others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.control_host import until
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.errors import SandboxNotRunning
from hutch.model import CreateSandbox, ExecState, SandboxState, UpdateSandbox
from hutch.settings import Settings

EXEC = "exe_" + "a" * 22


async def make(control: Control, **fields: Any) -> str:
    return (await control.create(CreateSandbox.model_validate(fields))).id


async def is_paused(control: Control, id: str) -> bool:
    return (await control.get(id)).state is SandboxState.PAUSED


async def test_what_nobody_uses_is_paused_and_wakes_when_it_is_used(control: Control, node: ModelNode) -> None:
    idle, never = await make(control, idle_timeout=1.0), await make(control)
    assert (await control.get(idle)).idle_timeout == 1.0
    await until(lambda: is_paused(control, idle), 6)
    assert not await is_paused(control, never)
    await control.execs.get(idle, EXEC)
    assert not await is_paused(control, idle)
    await until(lambda: is_paused(control, idle), 6)
    assert node.records[(await control.get(idle)).snapshot or ""].created_by is None


async def test_the_timeout_is_changed_and_taken_away_later(control: Control) -> None:
    id = await make(control)
    assert (await control.update(id, UpdateSandbox(idle_timeout=1.0))).idle_timeout == 1.0
    assert (await control.update(id, UpdateSandbox())).idle_timeout == 1.0, "what is left out stays"
    await until(lambda: is_paused(control, id), 6)
    assert (await control.update(id, UpdateSandbox(idle_timeout=None))).idle_timeout is None
    assert await is_paused(control, id), "it wakes nobody"
    await control.resume(id)
    await asyncio.sleep(2.5)
    assert not await is_paused(control, id)
    await control.delete(id)
    with pytest.raises(SandboxNotRunning):
        await control.update(id, UpdateSandbox(idle_timeout=1.0))


async def test_calls_keep_it_awake(control: Control) -> None:
    id = await make(control, idle_timeout=1.5)
    for _ in range(10):
        await control.execs.get(id, EXEC)
        await asyncio.sleep(0.4)
        assert not await is_paused(control, id)


async def test_a_call_under_way_keeps_it_awake_however_long(control: Control) -> None:
    id = await make(control, idle_timeout=0.5)
    async with control._guests.of(id, "org_default"):
        await asyncio.sleep(3)
        assert not await is_paused(control, id)
    await until(lambda: is_paused(control, id), 6)


async def test_looking_at_it_does_not_keep_it_awake(control: Control) -> None:
    id = await make(control, idle_timeout=1.0)
    started = time.monotonic()
    await until(lambda: is_paused(control, id), 6)  # which looks at it all the time
    assert time.monotonic() - started >= 0.9


async def test_output_that_nobody_reads_keeps_it_awake(control: Control, node: ModelNode) -> None:
    id = await make(control, idle_timeout=2.0)
    for length in range(20):
        node.processes = [ExecState(id=EXEC, running=True, output_end=length)]
        await asyncio.sleep(0.3)
        assert not await is_paused(control, id)
    await until(lambda: is_paused(control, id), 10)


async def test_a_request_that_comes_at_the_last_moment_stops_the_pause(control: Control, node: ModelNode) -> None:
    id = await make(control)
    row = await control._moves.pause(id, unless=lambda: True)
    assert row.state == "running" and node.calls["pause"] == 0
    await control.execs.get(id, EXEC)
    assert node.calls["resume"] == 0


async def test_a_server_that_restarts_remembers_the_last_use(settings: Settings, node: ModelNode) -> None:
    async with controlling(settings, node) as first:
        id = await make(first, idle_timeout=8.0)
        used = time.time()
        await first.execs.get(id, EXEC)
    async with controlling(settings, node) as second:
        await until(lambda: is_paused(second, id), 14)
        assert 7.5 <= time.time() - used < 13


@pytest.mark.parametrize("value", [0, -1, 1e12, "soon"])
def test_an_idle_timeout_is_a_positive_time(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        CreateSandbox.model_validate({"idle_timeout": value})
