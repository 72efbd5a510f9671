"""The egress log: bounded whatever comes, and read on from any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.node import egress_log
from hutch.node.egress_log import EgressLog


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[EgressLog]:
    log = EgressLog(tmp_path / "egress.db")
    await log.open()
    yield log
    await log.close()


def refusal(port: int) -> dict[str, object]:
    return {"kind": "connection", "allowed": False, "address": "1.2.3.4", "port": port, "reason": "not in policy"}


async def test_what_is_noted_is_read_in_order_and_by_sandbox(made: EgressLog) -> None:
    made.add("sbx_a", refusal(1))
    made.add("sbx_b", refusal(2))
    made.add("sbx_a", {"kind": "name", "allowed": True, "name": "x.org", "addresses": ["1.2.3.4"]})
    entries = await made.read("sbx_a", 0, 10, 5)
    assert [entry.message for entry in entries] == ["blocked: 1.2.3.4:1 (not in policy)", "allowed: x.org (in policy)"]
    assert await made.read("sbx_a", entries[-1].seq, 10, 0) == []
    waiting = asyncio.create_task(made.read("sbx_a", entries[-1].seq, 10, 5))
    made.add("sbx_a", refusal(3))
    assert [entry.port for entry in await waiting] == [3]


async def test_a_flood_is_counted_and_not_listed(made: EgressLog) -> None:
    for _ in range(1000):
        made.add("sbx_a", refusal(1) | {"sent": 2})
    for port in range(1, 2000):
        made.add("sbx_a", refusal(port))
    made._refusals.flush()
    entries = await made.read("sbx_a", 0, 1000, 5)
    assert len(entries) <= egress_log.MAX_PENDING + 1
    assert (entries[0].count, entries[0].sent) == (1001, 2000)
    assert entries[-1].reason == "more than can be listed"
    assert sum(entry.count for entry in entries) == 2999


async def test_a_long_flood_of_refusals_pushes_nothing_else_out(
    made: EgressLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_log, "KEEP", 600)
    made.add("sbx_a", {"kind": "connection", "allowed": True, "name": "good.test", "port": 443})
    for minute in range(10):
        for port in range(150):
            made.add("sbx_a", refusal(1 + 150 * minute + port))
        await made._write()
    made._refusals.flush()
    await made._write()
    entries = await made.read("sbx_a", 0, 1000, 5)
    assert entries[0].name == "good.test"
    assert sum(entry.count for entry in entries) == 1501
    assert entries[-1].reason == "more than can be listed"


async def test_only_the_newest_are_kept(made: EgressLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_log, "KEEP", 20)
    made.add("sbx_b", refusal(7))
    for port in range(1, 51):
        made.add("sbx_a", refusal(port))
    entries = await made.read("sbx_a", 0, 100, 5)
    assert [entry.port for entry in entries] == list(range(31, 51))
    assert len(await made.read("sbx_b", 0, 100, 5)) == 1


async def test_it_outlives_the_daemon(tmp_path: Path) -> None:
    for port in (1, 2):
        log = EgressLog(tmp_path / "egress.db")
        await log.open()
        log.add("sbx_a", refusal(port))
        await log.close()
    log = EgressLog(tmp_path / "egress.db")
    await log.open()
    assert [entry.port for entry in await log.read("sbx_a", 0, 10, 0)] == [1, 2]
    await log.close()


async def test_what_a_terminal_would_obey_is_taken_out(made: EgressLog) -> None:
    made.add("sbx_a", {"kind": "name", "allowed": False, "name": "a\x1b[31m\n.org" + "x" * 1000})
    (entry,) = await made.read("sbx_a", 0, 10, 5)
    assert entry.name is not None
    assert entry.name.startswith("a?[31m?.org")
    assert len(entry.name) == 300


async def test_who_makes_many_entries_pushes_out_none_of_others(
    made: EgressLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_log, "KEEP_ALL", 30)
    for sandbox, entries in (("sbx_a", 5), ("sbx_b", 40), ("sbx_c", 40)):
        for port in range(1, entries + 1):
            made.add(sandbox, refusal(port))
    assert len(await made.read("sbx_c", 0, 100, 5)) == 40
    await made.trim()
    kept = {each: [entry.port for entry in await made.read(each, 0, 100, 0)] for each in ("sbx_a", "sbx_b", "sbx_c")}
    assert kept == {"sbx_a": [1, 2, 3, 4, 5], "sbx_b": list(range(31, 41)), "sbx_c": list(range(31, 41))}
