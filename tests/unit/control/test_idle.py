"""Sandboxes that nobody uses are paused, and no others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.control_host import until
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control import idle
from hutch.control.service import Control
from hutch.errors import SandboxNotRunning
from hutch.model import CreateSandbox, ExecState, SandboxState, UpdateSandbox
from hutch.settings import Settings

EXEC = "exe_" + "a" * 22


async def make(control: Control, **fields: Any) -> str:
    return (await control.create(CreateSandbox.model_validate(fields))).id


async def is_paused(control: Control, id: str) -> bool:
    return (await control.get(id)).state is SandboxState.PAUSED


class Clock:
    """Time passes when the test says so, and with each second nobody looks for the idle but the test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    async def passes(self, control: Control, seconds: int) -> None:
        for _ in range(seconds):
            self.ahead += 1.0
            await control._idle.sweep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Comes before `control`."""
    clock, real = Clock(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + clock.ahead)
    monkeypatch.setattr(idle, "_TICK", 3600.0)
    return clock


async def test_what_nobody_uses_is_paused_and_wakes_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, control: Control, node: ModelNode
) -> None:
    monkeypatch.setattr(idle, "_TICK", 0.05)  # but for this, all by itself
    idles, never = await make(control, idle_timeout=0.4), await make(control)
    assert (await control.get(idles)).idle_timeout == 0.4
    await until(lambda: is_paused(control, idles))
    assert not await is_paused(control, never)
    await control.execs.get(idles, EXEC)
    assert node.calls["resume"] == 1
    await until(lambda: is_paused(control, idles))
    assert node.records[(await control.get(idles)).snapshot or ""].created_by is None


async def test_the_timeout_is_changed_and_taken_away_later(clock: Clock, control: Control) -> None:
    id = await make(control)
    await clock.passes(control, 20)
    assert (await control.update(id, UpdateSandbox(idle_timeout=10))).idle_timeout == 10
    assert (await control.update(id, UpdateSandbox())).idle_timeout == 10, "what is left out stays"
    await clock.passes(control, 9)
    assert not await is_paused(control, id), "a change counts as a use"
    await clock.passes(control, 3)
    assert await is_paused(control, id)
    assert (await control.update(id, UpdateSandbox(idle_timeout=None))).idle_timeout is None
    assert await is_paused(control, id), "it wakes nobody"
    await control.resume(id)
    await clock.passes(control, 30)
    assert not await is_paused(control, id)
    await control.delete(id)
    with pytest.raises(SandboxNotRunning):
        await control.update(id, UpdateSandbox(idle_timeout=1.0))


async def test_calls_keep_it_awake(clock: Clock, control: Control) -> None:
    id = await make(control, idle_timeout=10)
    for _ in range(5):
        await control.execs.get(id, EXEC)
        await clock.passes(control, 8)
        assert not await is_paused(control, id)
    await clock.passes(control, 4)
    assert await is_paused(control, id)


async def test_a_call_under_way_keeps_it_awake_however_long(clock: Clock, control: Control) -> None:
    id = await make(control, idle_timeout=10)
    async with control._guests.of(id, "org_default"):
        await clock.passes(control, 40)
        assert not await is_paused(control, id)
    await clock.passes(control, 12)
    assert await is_paused(control, id)


async def test_looking_at_it_does_not_keep_it_awake(clock: Clock, control: Control) -> None:
    id = await make(control, idle_timeout=10)
    for second in range(12):
        assert second > 9 or not await is_paused(control, id)
        await clock.passes(control, 1)
    assert await is_paused(control, id)


async def test_output_that_nobody_reads_keeps_it_awake(clock: Clock, control: Control, node: ModelNode) -> None:
    id = await make(control, idle_timeout=10)
    for length in range(8):
        node.processes = [ExecState(id=EXEC, running=True, output_end=length)]
        await clock.passes(control, 4)
        assert not await is_paused(control, id)
    await clock.passes(control, 12)
    assert await is_paused(control, id)


async def test_a_request_that_comes_at_the_last_moment_stops_the_pause(control: Control, node: ModelNode) -> None:
    id = await make(control)
    row = await control._moves.pause(id, unless=lambda: True)
    assert row.state == "running" and node.calls["pause"] == 0
    await control.execs.get(id, EXEC)
    assert node.calls["resume"] == 0


async def test_a_server_that_restarts_remembers_the_last_use(settings: Settings, clock: Clock, node: ModelNode) -> None:
    async with controlling(settings, node) as first:
        id = await make(first, idle_timeout=60)
        await clock.passes(first, 20)
        await first.execs.get(id, EXEC)
        await clock.passes(first, 1)
    clock.ahead += 30
    async with controlling(settings, node) as second:
        await clock.passes(second, 27)  # 58 seconds after the last use, 78 after the first
        assert not await is_paused(second, id)
        await clock.passes(second, 5)
        assert await is_paused(second, id)


@pytest.mark.parametrize("value", [0, -1, 1e12, "soon"])
def test_an_idle_timeout_is_a_positive_time(value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="idle_timeout"):
        CreateSandbox.model_validate({"idle_timeout": value})
