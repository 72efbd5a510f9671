"""Time-outs that can be moved: what happens when they are over, and to those that have none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
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
        self.goes_on = asyncio.Event()
        """A pause waits for it."""
        self.goes_on.set()

    async def destroy(self, sandbox_id: str, reason: str) -> None:
        self.asked.append(("destroy", sandbox_id))

    async def pause(self, sandbox_id: str, unless: Callable[[], bool], kind: SnapshotKind) -> None:
        await self.goes_on.wait()
        if unless():
            return
        self.asked.append(("pause", sandbox_id, kind))
        if self.fails:
            raise FreezeFailed("no room")


@pytest.fixture
async def store(tmp_path: Path, database: Callable[[Path], str]) -> AsyncIterator[Store]:
    opened = await Store.open(database(tmp_path / "hutch.db"))
    yield opened
    await opened.close()


@pytest.fixture
def others() -> Others:
    return Others()


@pytest.fixture
def timeouts(store: Store, others: Others) -> Timeouts:
    return Timeouts(cast(Any, SimpleNamespace(store=store)), cast(Any, others), cast(Any, others))


async def swept(timeouts: Timeouts) -> None:
    """Looked once, and done."""
    await timeouts.sweep()
    await asyncio.gather(*timeouts._work.values(), return_exceptions=True)


async def put(store: Store, end_in: float | None, state: str = "running", id: str = "sbx_1", **options: bool) -> str:
    now = time.time()
    row = SandboxRow(id, "org", state, "standard", {}, {}, created_at=now, deadline=now + 1e6)
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
    await swept(timeouts)
    assert others.asked == [("destroy", "sbx_1")]


async def test_what_is_not_over_is_left_alone(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, 5)
    await swept(timeouts)
    assert others.asked == []


@pytest.mark.parametrize(("memory", "kind"), [(True, SnapshotKind.FULL), (False, SnapshotKind.DISK)])
async def test_or_paused(store: Store, timeouts: Timeouts, others: Others, memory: bool, kind: SnapshotKind) -> None:
    await put(store, -1, auto_pause=True, auto_pause_memory=memory)
    await swept(timeouts)
    assert others.asked == [("pause", "sbx_1", kind)] and await left(store) is None


async def test_a_pause_that_fails_is_tried_again_later(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1, auto_pause=True)
    others.fails = True
    await swept(timeouts)
    await swept(timeouts)
    assert len(others.asked) == 1 and 10 < (await left(store) or 0) < 20


async def test_whoever_wakes_it_gives_it_its_time(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, None)
    await swept(timeouts)
    assert others.asked == [] and 55 < (await left(store) or 0) <= 60


async def test_a_paused_one_has_none(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1, state="paused")
    await swept(timeouts)
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


async def test_a_slow_pause_keeps_no_other_waiting(store: Store, timeouts: Timeouts, others: Others) -> None:
    await put(store, -1, auto_pause=True)
    others.goes_on.clear()
    await timeouts.sweep()
    await put(store, -1, id="sbx_2")
    await timeouts.sweep()
    await asyncio.wait({timeouts._work["sbx_2"]})
    assert others.asked == [("destroy", "sbx_2")]
    others.goes_on.set()
    await asyncio.wait({timeouts._work["sbx_1"]})
    assert len(others.asked) == 2


@pytest.mark.parametrize("auto_pause", [False, True])
async def test_who_moves_it_before_it_is_acted_upon_wins(
    store: Store, timeouts: Timeouts, others: Others, monkeypatch: pytest.MonkeyPatch, auto_pause: bool
) -> None:
    id = await put(store, -1, auto_pause=auto_pause)
    found = await store.e2b.due(time.time())
    await timeouts.set(id, 100)

    async def due(_: float) -> Any:
        return found  # as it was a moment ago

    monkeypatch.setattr(store.e2b, "due", due)
    await swept(timeouts)
    assert others.asked == [] and (await left(store) or 0) > 90


async def test_or_at_the_last_moment_of_a_pause(store: Store, timeouts: Timeouts, others: Others) -> None:
    id = await put(store, -1, auto_pause=True)
    others.goes_on.clear()
    await timeouts.sweep()
    await asyncio.sleep(0.05)
    await timeouts.set(id, 100)
    others.goes_on.set()
    await asyncio.wait({timeouts._work[id]})
    assert others.asked == [] and (await left(store) or 0) > 90
    await timeouts.set(id, -1)
    await swept(timeouts)
    assert len(others.asked) == 1
