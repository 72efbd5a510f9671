"""An organisation whose snapshots take all that they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.node.machine import Daemon, Host, daemon
from tests.unit.node.test_state_killed import FORK, SANDBOX, request
from tests.unit.node.test_tidy import left, pause, take

from hutch.errors import LimitReached
from hutch.model import RollbackRequest, SnapshotReason, new_id
from hutch.node.archives import Archives
from hutch.snapshots import Retention

ORG, OTHER = "org_a", "org_b"


@pytest.fixture
async def node(memory: Path) -> AsyncIterator[Daemon]:
    """One with a sandbox of an organisation that may have no more than its first snapshot."""
    async with daemon(Host(memory, most_snapshot_bytes=1)) as one:
        await one.sandboxes.boot(SANDBOX, request(org=ORG))
        yield one


async def back(node: Daemon, to: str) -> str:
    safety = new_id("snp")
    await node.sandboxes.states.rollback(SANDBOX, RollbackRequest(snapshot=to, safety=safety))
    return safety


async def tidy(node: Daemon) -> list[str]:
    return await node.parts.snapshots.tidy(Retention(), datetime.now(UTC))


async def nothing() -> AsyncIterator[bytes]:
    raise AssertionError("nothing is read")
    yield b""


async def test_what_is_asked_for_is_refused_and_says_the_way_out(node: Daemon) -> None:
    first = await take(node)
    await node.parts.snapshots._store.wait_stored(first)  # which makes it smaller
    for reason in ("manual", "fork", "checkpoint"):
        with pytest.raises(LimitReached) as refused:
            await take(node, reason)
        usage = await node.parts.snapshots.usage(ORG)
        used = usage.stored_bytes + usage.pending_bytes
        assert refused.value.extra == {"limit": "snapshot_bytes", "used": used, "most": usage.limit_bytes}
        assert used >= 1 and "hutch snapshot rm" in refused.value.hint and "HUTCH_SNAPSHOT_BYTES" in refused.value.hint
    with pytest.raises(LimitReached):
        await Archives(node.parts).take_in(nothing(), ORG, None)
    assert await left(node) == {first} and node.parts.registry.get(SANDBOX).running
    await node.parts.snapshots.delete(first)
    await take(node)


async def test_pauses_rollbacks_and_forks_of_what_there_is_go_on(node: Daemon) -> None:
    first = await take(node)
    await pause(node)
    await node.sandboxes.states.resume(SANDBOX)
    await back(node, first)
    await node.sandboxes.boot(FORK, request(from_snapshot=first, org=ORG))
    await pause(node)


async def test_of_what_nobody_asked_for_only_the_newest_is_kept(node: Daemon) -> None:
    first, pauses = await take(node), []
    safety = [await back(node, first) for _ in range(3)]
    for _ in range(3):
        pauses.append(await pause(node))
        await node.sandboxes.states.resume(SANDBOX)
    assert await tidy(node) == [*safety[:2], *pauses[:2]]
    assert await left(node) == {first, safety[2], pauses[2]}
    assert await tidy(node) == []


async def test_nothing_goes_while_there_is_room_and_no_more_than_is_needed(memory: Path) -> None:
    async with daemon(Host(memory, most_snapshot_bytes=1 << 30)) as node:
        await node.sandboxes.boot(SANDBOX, request(org=ORG))
        pauses = []
        for number in range(4):
            node.host.kernels[SANDBOX].memory = number
            pauses.append(await pause(node))
            await node.parts.snapshots._store.wait_stored(pauses[-1])
            await node.sandboxes.states.resume(SANDBOX)
        assert await tidy(node) == []
        usage = await node.parts.snapshots.usage(ORG)
        assert (usage.pending_bytes, usage.limit_bytes) == (0, 1 << 30)
        node.parts.snapshots.allowance.most = usage.stored_bytes
        assert await tidy(node) == pauses[:1]


async def test_it_is_each_organisations_own_and_what_is_in_the_making_counts(node: Daemon) -> None:
    allowance = node.parts.snapshots.allowance
    async with allowance.kept(ORG, SnapshotReason.MANUAL, 5):
        with pytest.raises(LimitReached) as refused:
            await take(node)
        assert refused.value.extra["used"] == 5
        async with allowance.kept(OTHER, SnapshotReason.MANUAL, 5), allowance.kept(None, SnapshotReason.MANUAL, 5):
            pass
    waiting = await asyncio.gather(*(take(node) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(each, str) for each in waiting) == 1
