"""Calls to a model provider that are held for a snapshot are held until its freeze is over."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.machine import Host, daemon
from tests.unit.node.test_state_killed import NEW, SANDBOX, running

from hutch.errors import FreezeFailed
from hutch.model import HoldRequest, SnapshotRequest

HELD = SnapshotRequest(snapshot=NEW, held=True)


async def test_a_freeze_that_outlasts_the_hold_cuts_no_call(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with daemon(Host(memory)) as node:
        await running(node)
        states, runtime, gate = node.sandboxes.states, node.parts.runtime, node.parts.gateway._account(SANDBOX).gate
        freeze, shut = runtime.freeze, []

        async def slow(*freezing: Any) -> Any:
            states.let_go(SANDBOX)  # the server gave up waiting
            await asyncio.sleep(0.3)
            shut.append(gate.shut)
            return await freeze(*freezing)

        monkeypatch.setattr(runtime, "freeze", slow)
        assert await states.hold(SANDBOX, HoldRequest(within=1, seconds=0.2))
        call = asyncio.create_task(gate.passage())
        await states.snapshot(SANDBOX, HELD)
        assert shut == [True] and not gate.shut
        await asyncio.wait_for(call, 1)


async def test_one_that_fails_lets_them_go(memory: Path) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await running(node)
        states, gate = node.sandboxes.states, node.parts.gateway._account(SANDBOX).gate
        assert await states.hold(SANDBOX, HoldRequest(within=1, seconds=60))
        host.fail, host.wrong = "freeze", FreezeFailed("wrong")
        with pytest.raises(FreezeFailed):
            await states.snapshot(SANDBOX, HELD)
        await asyncio.wait_for(gate.passage(), 1)
        with pytest.raises(FreezeFailed, match="not held any more"):
            await states.snapshot(SANDBOX, HELD)
