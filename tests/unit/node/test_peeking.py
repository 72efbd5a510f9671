"""Comparing points of sandboxes: whoever holds what others need gives it back, whatever the guests do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.node.machine import Daemon, Host, daemon
from tests.unit.node.test_state_killed import SANDBOX, request, resume

from hutch.errors import InvalidRequest, LimitReached, SandboxNotRunning
from hutch.model import Diff, DiffRequest, PauseRequest, SnapshotRequest, new_id
from hutch.node import differ, state_api
from hutch.node.turns import Turns

FIRST, SECOND = new_id("snp"), new_id("snp")


@asynccontextmanager
async def with_two_snapshots(memory: Path) -> AsyncIterator[Daemon]:
    async with daemon(Host(memory)) as node:
        await node.sandboxes.boot(SANDBOX, request())
        await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=FIRST))
        node.host.kernels[SANDBOX].memory = 1
        await node.sandboxes.states.snapshot(SANDBOX, SnapshotRequest(snapshot=SECOND))
        yield node


async def diff(node: Daemon, first: str | None, second: str | None, text: bool = False) -> Diff:
    asked = DiffRequest(from_snapshot=first, to_snapshot=second, text=text)
    async with asyncio.timeout(10):
        return await node.sandboxes.diff(SANDBOX, asked)


def assert_nothing_is_left(node: Daemon) -> None:
    assert set(node.host.kernels) == {SANDBOX} and len(node.host.slots) == 1


async def test_comparisons_of_memory_never_wait_for_each_other(memory: Path) -> None:
    async with with_two_snapshots(memory) as node:
        found = await asyncio.gather(*(diff(node, FIRST, SECOND) for _ in range(5)))
        assert [each.changes[0].path for each in found] == ["/number"] * 5
        for change in (each.changes[0] for each in found):
            assert change.before is not None and change.after is not None
            assert (change.before.size, change.after.size) == (1, 2)
        assert_nothing_is_left(node)


async def test_texts_of_snapshots_with_known_listings_need_two_copies_at_most(memory: Path) -> None:
    async with with_two_snapshots(memory) as node:
        await diff(node, FIRST, SECOND)
        most = 0

        async def looked_at() -> None:
            nonlocal most
            most = max(most, len(node.host.kernels) - 1)
            await asyncio.sleep(0)

        node.host.looked_at = looked_at
        (change,) = (await diff(node, FIRST, SECOND, text=True)).changes
        assert (change.text or "").endswith("-0\n+1\n") and most == 2
        most = 0
        (change,) = (await diff(node, None, SECOND, text=True)).changes
        assert (change.text or "").endswith("--1\n+1\n") and most == 1
        assert_nothing_is_left(node)


async def test_a_guest_that_is_too_slow_is_given_up(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with with_two_snapshots(memory) as node:
        monkeypatch.setattr(differ, "_SECONDS", 0.2)
        honest, node.host.looked_at = node.host.looked_at, asyncio.Event().wait  # type: ignore[assignment]
        found = await asyncio.gather(*(diff(node, FIRST, SECOND) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in found] == [LimitReached] * 3
        assert_nothing_is_left(node)
        node.host.looked_at = honest
        monkeypatch.undo()
        assert (await diff(node, FIRST, SECOND)).changed == 1


async def test_an_organisation_leaves_turns_to_the_others() -> None:
    turns, held = Turns(at_once=2, of_one=1), asyncio.Event()

    async def hold() -> None:
        async with turns.turn("org_a", 10):
            await held.wait()

    holding = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0)
    async with turns.turn("org_b", 1):
        with pytest.raises(LimitReached):
            async with turns.turn("org_a", 0.01):
                pass
    held.set()
    await asyncio.gather(*holding)
    async with turns.turn("org_a", 0.01):
        pass


async def test_a_comparison_ends_with_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_api, "_LOOK", 0.01)
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with pytest.raises(InvalidRequest):
        await state_api._unless_gone(cast(Any, SimpleNamespace(transport=None)), work())
    await asyncio.wait_for(ended.wait(), 1)


async def test_one_that_runs_is_not_asked_where_it_was_before_a_pause(memory: Path) -> None:
    """Its address may be another's by then."""
    async with with_two_snapshots(memory) as node:
        await diff(node, FIRST, None)
        looks = 0

        async def looked_at() -> None:
            nonlocal looks
            looks += 1
            if looks == 2:  # at the copy of the snapshot, after the sandbox was asked for its listing
                await node.sandboxes.states.pause(SANDBOX, PauseRequest(snapshot=new_id("snp")))
                await resume(node)

        node.host.looked_at = looked_at
        with pytest.raises(SandboxNotRunning):
            await diff(node, FIRST, None, text=True)
        assert looks == 3
        assert_nothing_is_left(node)
