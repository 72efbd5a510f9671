"""What E2B's API stores beside a sandbox."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hutch.errors import InvalidRequest
from hutch.store import Store
from hutch.store.e2b import E2bRow, Wanted
from hutch.store.pages import make_cursor
from hutch.store.sandboxes import SandboxRow


def sandbox(number: int, **fields: object) -> SandboxRow:
    row = SandboxRow(f"sbx_{number}", "org", "running", "standard", {}, {}, created_at=float(number), deadline=1e12)
    return replace(row, **fields)  # type: ignore[arg-type]


async def put(store: Store, row: SandboxRow, end_at: float | None = 1e11) -> None:
    async with store.database.write() as connection:
        await store.sandboxes.insert(connection, row)
        await store.e2b.insert(connection, E2bRow(row.id, 60.0, end_at, {"auto_pause": False}))


async def ids(store: Store, wanted: Wanted, limit: int = 10, cursor: str | None = None) -> list[str]:
    return [row.id for row, _ in await store.e2b.page("org", wanted, limit, cursor)]


async def test_what_is_due(store: Store) -> None:
    for number, (state, end_at) in enumerate(
        [
            ("running", 50.0),  # over
            ("running", 150.0),
            ("running", None),  # somebody has woken it
            ("paused", 50.0),  # paused by somebody who knows no time-outs
            ("paused", None),
            ("pausing", 50.0),
            ("stopped", 50.0),
        ]
    ):
        await put(store, sandbox(number, state=state), end_at)
    due = sorted((row.sandbox_id, state) for row, state in await store.e2b.due(100.0))
    assert due == [("sbx_0", "running"), ("sbx_2", "running"), ("sbx_3", "paused")]
    await store.e2b.change("sbx_0", end_at=200.0)
    assert [row.sandbox_id for row, _ in await store.e2b.due(100.0)] == ["sbx_2", "sbx_3"]


async def test_pages_in_both_orders(store: Store) -> None:
    for number in range(5):
        await put(store, sandbox(number))
    for ascending, order in ((False, [4, 3, 2, 1, 0]), (True, [0, 1, 2, 3, 4])):
        wanted = Wanted(["running"], ascending=ascending)
        expected = [f"sbx_{number}" for number in order]
        assert await ids(store, wanted) == expected
        cursor = make_cursor(float(order[1]), expected[1])
        assert await ids(store, wanted, 2, cursor) == expected[2:4]
    with pytest.raises(InvalidRequest):
        await ids(store, Wanted(["running"]), 1, "?")


async def test_filters(store: Store) -> None:
    await put(store, sandbox(1, labels={"a": "1", "b": "2"}))
    await put(store, sandbox(2, labels={"a": "1"}, template="other"))
    await put(store, sandbox(3, org="another", labels={"a": "1"}))
    await put(store, sandbox(4, state="stopped", labels={"a": "1"}))
    async with store.database.write() as connection:
        await store.sandboxes.insert(connection, sandbox(5, labels={"a": "1"}))  # Hutch's own
    assert await ids(store, Wanted(["running"], {"a": "1"})) == ["sbx_2", "sbx_1"]
    assert await ids(store, Wanted(["running"], {"a": "1", "b": "2"})) == ["sbx_1"]
    assert await ids(store, Wanted(["running"], templates=["other"])) == ["sbx_2"]
    assert await ids(store, Wanted(["running"], templates=[])) == []
    await store.e2b.change("sbx_1", options={"template_id": "snp_1"})
    assert await ids(store, Wanted(["running"], templates=[], sources=["snp_1", "before"])) == ["sbx_1"]
    assert await ids(store, Wanted(["running"], templates=["other"], sources=["snp_1"])) == ["sbx_2", "sbx_1"]
    assert await ids(store, Wanted(["running"], templates=[], sources=["snp_2"])) == []
    assert await ids(store, Wanted(["running"], started_after=2.0)) == ["sbx_2"]
    assert sorted(await store.e2b.live(["running"])) == ["sbx_1", "sbx_2", "sbx_3", "sbx_5"]


async def test_it_goes_with_its_sandbox(store: Store) -> None:
    await put(store, sandbox(1))
    assert (await store.e2b.get("sbx_1")) == E2bRow("sbx_1", 60.0, 1e11, {"auto_pause": False})
    await store.sandboxes.forget("sbx_1")
    assert await store.e2b.get("sbx_1") is None
