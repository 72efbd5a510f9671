"""Which snapshots the node takes away by itself, and which it keeps for its sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.node.machine import Daemon, Host, daemon
from tests.unit.node.test_state_killed import FORK, SANDBOX, request

from hutch.model import PauseRequest, RollbackRequest, SnapshotReason, SnapshotRequest, new_id
from hutch.settings import Settings
from hutch.snapshots import Retention


@pytest.fixture
async def node(memory: Path) -> AsyncIterator[Daemon]:
    """One with a sandbox."""
    async with daemon(Host(memory)) as one:
        await one.sandboxes.boot(SANDBOX, request())
        yield one


async def take(node: Daemon, reason: str = "manual", name: str | None = None, sandbox: str = SANDBOX) -> str:
    wish = SnapshotRequest(snapshot=new_id("snp"), reason=SnapshotReason(reason), name=name)
    return (await node.sandboxes.states.snapshot(sandbox, wish)).id


async def pause(node: Daemon, sandbox: str = SANDBOX) -> str:
    id = new_id("snp")
    await node.sandboxes.states.pause(sandbox, PauseRequest(snapshot=id))
    return id


async def tidy(node: Daemon, days: float = 0, **rule: int) -> list[str]:
    return await node.parts.snapshots.tidy(Retention(**rule), datetime.now(UTC) + timedelta(days=days))


async def left(node: Daemon) -> set[str]:
    return {each.id for each in await node.parts.snapshots.records()}


async def test_idle_pauses_push_out_nothing_that_somebody_took(node: Daemon) -> None:
    taken, pauses = await take(node), []
    for _ in range(3):
        pauses.append(await pause(node))
        await node.sandboxes.states.resume(SANDBOX)
    assert await tidy(node, last=1) == pauses[:2]
    assert await left(node) == {taken, pauses[2]}


async def test_the_tidying_goes_by_the_operators_numbers(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUTCH_SNAPSHOT_KEEP", "2")
    assert Settings().snapshot_keep == 2
    async with daemon(Host(memory)) as node:
        await node.sandboxes.boot(SANDBOX, request())
        ids = [await take(node) for _ in range(4)]
        await node.sandboxes._tidy()
        assert await left(node) == set(ids[2:])


async def test_what_a_fork_of_now_left_goes_with_the_last_that_came_from_it(node: Daemon) -> None:
    now = await take(node, "fork")
    await node.sandboxes.boot(FORK, request(from_snapshot=now))
    await node.sandboxes.destroy(SANDBOX)
    own = await take(node, sandbox=FORK)
    stands_on = await pause(node, FORK)
    assert await tidy(node, 2) == []
    await node.sandboxes.states.rollback(FORK, RollbackRequest(snapshot=now, safety=new_id("snp")))
    await pause(node, FORK)
    assert await tidy(node, 0.5) == []
    await node.sandboxes.destroy(FORK)
    assert stands_on not in await left(node)
    assert await tidy(node, 0.5) == []
    assert await tidy(node, 2) == [now]
    (record,) = await node.parts.snapshots.records()
    assert (record.id, record.parent) == (own, None)


async def test_what_somebody_took_of_a_sandbox_that_is_gone_stays_for_its_time(node: Daemon) -> None:
    taken, named = await take(node), await take(node, name="good")
    await node.sandboxes.destroy(SANDBOX)
    assert await tidy(node, 29) == []
    await node.sandboxes.boot(FORK, request(from_snapshot=taken))
    assert await tidy(node, 31) == []
    await node.sandboxes.destroy(FORK)
    assert await tidy(node, 31) == [taken]
    assert await left(node) == {named}


async def test_who_stood_behind_several_that_went_stands_behind_the_one_before_them(node: Daemon) -> None:
    base = await take(node, name="base")
    checkpoints = [await take(node, "checkpoint") for _ in range(3)]
    assert await tidy(node, checkpoints=0) == checkpoints
    assert node.parts.registry.get(SANDBOX).record.parent == base
    assert (await node.parts.snapshots.get(await take(node))).parent == base
