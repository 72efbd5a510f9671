"""The node remembers when a sandbox was paused and when it went on, however long it was gone itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.unit.node.machine import Daemon, after, daemon
from tests.unit.node.test_state_killed import SANDBOX, hibernate, pause, resume, running


@pytest.mark.parametrize("operation", [pause, hibernate])
async def test_it_is_paused_since_it_was_frozen_whenever_the_node_was_killed(
    memory: Path, operation: Callable[[Daemon], Awaitable[object]]
) -> None:
    kept = await after(memory, running)
    async with daemon(kept.again()) as node:
        assert node.sandboxes.view(node.parts.registry.get(SANDBOX)).since is None
    step = paused = 0
    while True:
        host = kept.again()
        async with daemon(host, kill_at=step) as node:
            begun = time.time()
            await node.unless_killed(operation(node))
            gone, ended = time.time(), not host.killed.is_set()
        await asyncio.sleep(0.05)
        async with daemon(host) as node:
            entry = node.parts.registry.get(SANDBOX)
            if entry.paused:
                paused += 1
                since = node.sandboxes.view(entry).since
                assert since is not None and begun <= since <= gone
                await resume(node)
                assert (node.sandboxes.view(entry).since or 0.0) >= gone
        if ended:
            break
        step += 1
    assert paused > 2
