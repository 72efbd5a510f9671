"""Calls are held between two of them, and never in the middle of one."""

from __future__ import annotations

import asyncio
import time

import pytest

from hutch.egress.llm import gate as module
from hutch.egress.llm.gate import Gate
from hutch.egress.llm.refused import Refused


async def call(gate: Gate, seconds: float) -> float:
    """One that takes so long; when it has passed."""
    await gate.passage()
    task = asyncio.current_task()
    assert task is not None
    gate.entered(task)
    passed = time.monotonic()
    try:
        await asyncio.sleep(seconds)
    finally:
        gate.left(task)
    return passed


async def test_it_shuts_when_the_last_call_has_ended_and_was_read() -> None:
    gate, begun = Gate(), time.monotonic()
    calls = [asyncio.create_task(call(gate, seconds)) for seconds in (0.1, 0.3)]
    await asyncio.sleep(0)
    assert await gate.hold(5, 5) and gate.shut
    assert all(task.done() for task in calls)
    assert time.monotonic() - begun >= 0.39
    late = asyncio.create_task(call(gate, 0))
    await asyncio.sleep(0.2)
    assert not late.done() and gate.waiting == 1
    opened = time.monotonic()
    gate.open()
    assert await late >= opened and gate.waiting == 0


async def test_no_call_passes_between_the_end_of_the_last_and_the_shutting() -> None:
    gate = Gate()
    first = asyncio.create_task(call(gate, 0.1))
    await asyncio.sleep(0)
    hold = asyncio.create_task(gate.hold(5, 5))

    async def next_one() -> float:
        await first
        return await call(gate, 0)

    following = asyncio.create_task(next_one())
    held = await hold
    if held and not following.done():
        gate.open()
    await following
    assert held


async def test_no_moment_no_hold() -> None:
    gate = Gate()
    busy = asyncio.create_task(call(gate, 5))
    await asyncio.sleep(0)
    assert not await gate.hold(0.1, 5) and not gate.shut
    await asyncio.wait_for(call(gate, 0), 1)
    busy.cancel()


async def test_a_hold_that_nobody_ends_ends_by_itself() -> None:
    gate = Gate()
    assert await gate.hold(1, 0.3)
    begun = time.monotonic()
    assert 0.1 <= await call(gate, 0) - begun <= 1


async def test_who_hangs_up_waits_no_more_and_not_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    gate = Gate()
    assert await gate.hold(1, 10)
    waiting = [asyncio.create_task(call(gate, 0)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await call(gate, 0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    third = asyncio.create_task(call(gate, 0))
    await asyncio.sleep(0)
    gate.open()
    await asyncio.wait_for(asyncio.gather(waiting[1], third), 1)


async def test_one_that_is_latched_stays_shut_whatever_the_hold_and_whoever_opens_it() -> None:
    gate = Gate()
    assert await gate.hold(1, 0.3)
    early = asyncio.create_task(call(gate, 0))
    await asyncio.sleep(0)
    assert gate.latch()
    await asyncio.sleep(0.4)
    gate.open()
    late = asyncio.create_task(call(gate, 0))
    await asyncio.sleep(0.1)
    assert gate.shut and not early.done() and not late.done()
    gate.unlatch()
    await asyncio.wait_for(asyncio.gather(early, late), 1)
    assert not gate.shut


async def test_one_that_is_open_cannot_be_latched() -> None:
    gate = Gate()
    assert not gate.latch() and not gate.shut
    assert await gate.hold(1, 0.1)
    await asyncio.sleep(0.2)
    assert not gate.latch()
    await asyncio.wait_for(call(gate, 0), 1)
