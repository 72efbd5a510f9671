"""Time-outs that can be moved: what happens when they are over, and to those that have none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hutch.control.timeouts import Timeouts
from hutch.errors import FreezeFailed
from hutch.model import SnapshotKind
from hutch.store import Store
from hutch.store.e2b import E2bRow
from hutch.store.sandboxes import SandboxRow


class Others:
    """Lifecycle and moves: note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.fails = False

    async def destroy(self, sandbox_id: str, reason: str) -> None:
        self.asked.append(("destroy", sandbox_id))

    async def pause(self, sandbox_id: str, kind: SnapshotKind) -> None:
        self.asked.append(("pause", sandbox_id, kind))
        if self.fails:
            raise FreezeFailed("no room")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(f"sqlite+aiosqlite:///{tmp_path / 'hutch.db'}")
    yield opened
    await opened.close()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def timeouts(store: Store, others: Others) -> Timeouts:
    return Timeouts(cast(Any, SimpleNamespace(store=store)), cast(Any, others), cast(Any, others))


async def put(store: Store, end_in: float | None, state: str = "running", **options: bool) -> str:
    now = time.time()
    row = SandboxRow("sbx_1", "org", state, "standard", {}, {}, created_at=now, deadline=now + 1e6)
    async with store.database.write() as connection:
        await store.sandboxes.insert(connection, row)
        end_at = now + end_in if end_in is not None else None
        await store.e2b.insert(connection, E2bRow(row.id, 60.0, end_at, dict(options)))
    return row.id


async def left(store: Store) -> float | None:
    row = await store.e2b.get("sbx_1")
    assert row is not None
    return row.end_at - time.time() if row.end_at is not None else None


async def test_what_is_over_is_killed(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1)
    await timeouts.sweep()
    assert others.asked == [("destroy", "sbx_1")]


async def test_what_is_not_over_is_left_alone(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, 5)
    await timeouts.sweep()
    assert others.asked == []


@pytest.mark.parametrize(("memory", "kind"), [(True, SnapshotKind.FULL), (False, SnapshotKind.DISK)])
async def test_or_paused(store: Store, timeouts: Timeouts, others: Others, memory: bool, kind: SnapshotKind) -> None:
    await put(store, -1, auto_pause=True, auto_pause_memory=memory)
    await timeouts.sweep()
    assert others.asked == [("pause", "sbx_1", kind)] and await left(store) is None


async def test_a_pause_that_fails_is_tried_again_later(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1, auto_pause=True)
    others.fails = True
    await timeouts.sweep()
    await timeouts.sweep()
    assert len(others.asked) == 1 and 10 < (await left(store) or 0) < 20


async def test_whoever_wakes_it_gives_it_its_time(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, None)
    await timeouts.sweep()
    assert others.asked == [] and 55 < (await left(store) or 0) <= 60


async def test_a_paused_one_has_none(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1, state="paused")
    await timeouts.sweep()
    assert others.asked == [] and await left(store) is None


async def test_prolonging_never_shortens(store: Store, timeouts: Timeouts) -> None:
    id = await put(store, 100)
    for seconds, expected in ((50, 100), (200, 200)):
        row = await store.e2b.get(id)
        assert row is not None
        await timeouts.prolong(row, seconds)
        assert expected - 5 < (await left(store) or 0) <= expected
    await timeouts.set(id, 10)
    assert (await left(store) or 0) <= 10
