"""The node's journal: durable, ordered, once where once is meant."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.errors import DiskFull
from hutch.model import LlmUsage
from hutch.node.journal import KEEP_SECONDS, PAGE, Journal


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = Journal(tmp_path / "node.db")
    await journal.open()
    yield journal
    await journal.close()


async def test_entries_come_back_in_order(journal: Journal) -> None:
    await journal.append("sbx_a", "sandbox_running", {"boot_ms": 12.5})
    await journal.append("sbx_a", "limit", {"limit": "memory"})
    entries, last = await journal.read(0, 0)
    assert [(entry.seq, entry.kind) for entry in entries] == [(1, "sandbox_running"), (2, "limit")]
    assert entries[0].data == {"boot_ms": 12.5}
    assert last == 2
    assert [entry.seq for entry in (await journal.read(1, 0))[0]] == [2]


async def test_an_entry_that_has_time_is_written_with_the_next_one_or_when_somebody_reads(journal: Journal) -> None:
    reading = asyncio.create_task(journal.read(0, 30))
    await asyncio.sleep(0)
    patient = asyncio.create_task(journal.append("sbx_a", "sandbox_running", {}, within=60))
    await asyncio.sleep(0.05)
    assert not patient.done() and not reading.done()
    await journal.append("sbx_a", "limit", {})
    assert [entry.kind for entry in (await asyncio.wait_for(reading, 2))[0]] == ["sandbox_running", "limit"]
    await asyncio.wait_for(patient, 2)
    patient = asyncio.create_task(journal.append("sbx_b", "sandbox_running", {}, within=60))
    await asyncio.sleep(0)
    assert [entry.sandbox for entry in (await journal.read(2, 0))[0]] == ["sbx_b"]
    await asyncio.wait_for(journal.append("sbx_c", "sandbox_running", {}, within=0.01), 2)


async def test_a_read_waits_for_the_next_entry(journal: Journal) -> None:
    reading = asyncio.create_task(journal.read(0, 30))
    await asyncio.sleep(0.05)
    assert not reading.done()
    await journal.append("sbx_a", "limit", {})
    entries, _ = await asyncio.wait_for(reading, 2)
    assert len(entries) == 1


async def test_a_read_ends_when_its_wait_is_over_or_the_daemon_stops(journal: Journal) -> None:
    assert await journal.read(0, 0.05) == ([], 0)
    reading = asyncio.create_task(journal.read(0, 30))
    await asyncio.sleep(0.05)
    journal.wake()
    assert await asyncio.wait_for(reading, 2) == ([], 0)


async def test_a_death_is_written_once(journal: Journal) -> None:
    await journal.append("sbx_a", "sandbox_dead", {"reason": "first"})
    await journal.append("sbx_a", "sandbox_dead", {"reason": "second"})
    entries, _ = await journal.read(0, 0)
    assert [entry.data["reason"] for entry in entries] == ["first"]


async def test_many_at_once_are_all_durable_when_they_return(journal: Journal, tmp_path: Path) -> None:
    await asyncio.gather(*(journal.append(f"sbx_{n}", "limit", {"n": n}) for n in range(PAGE + 100)))
    with sqlite3.connect(tmp_path / "node.db") as other:
        assert other.execute("SELECT count(*) FROM journal").fetchone() == (PAGE + 100,)
    other.close()
    first, last = await journal.read(0, 0)
    rest, _ = await journal.read(last, 0)
    assert (len(first), len(rest)) == (PAGE, 100)


async def test_numbers_are_never_used_twice_even_after_all_was_trimmed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    await journal.open()
    await journal.append("sbx_a", "limit", {})
    with sqlite3.connect(tmp_path / "node.db") as other:
        other.execute("UPDATE journal SET time = ?", (time.time() - KEEP_SECONDS - 1,))
    other.close()
    await journal.trim()
    assert await journal.read(0, 0) == ([], 1)
    await journal.close()
    again = Journal(tmp_path / "node.db")
    await again.open()
    await again.append("sbx_a", "limit", {})
    assert (await again.read(0, 0))[0][0].seq == 2
    await again.close()


async def test_the_newest_usage_of_each_sandbox_survives_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "node.db")
    await journal.open()
    for tokens in (10, 25):
        usage = LlmUsage(requests=1, input_tokens=tokens)
        await journal.append("sbx_a", "llm_usage", {"usage": usage.model_dump(), "model": "m"})
    await journal.append("sbx_b", "llm_usage", {"usage": LlmUsage(requests=3).model_dump(), "model": "m"})
    await journal.close()
    again = Journal(tmp_path / "node.db")
    await again.open()
    assert await again.llm_totals() == {
        "sbx_a": LlmUsage(requests=1, input_tokens=25),
        "sbx_b": LlmUsage(requests=3),
    }
    await again.forget("sbx_a")
    assert set(await again.llm_totals()) == {"sbx_b"}
    await again.close()


async def test_a_full_disk_is_a_typed_error_and_insisting_waits_for_room(journal: Journal) -> None:
    await journal.append("sbx_a", "limit", {})
    await journal._db.read(lambda db: db.execute("PRAGMA max_page_count = 1").fetchall())
    await journal._db.read(lambda db: db.execute("VACUUM"))
    big = {"text": "x" * 100_000}
    with pytest.raises(DiskFull):
        await journal.append("sbx_a", "limit", big)
    insisting = asyncio.create_task(journal.insist("sbx_a", "limit", big))
    await asyncio.sleep(0.1)
    assert not insisting.done()
    await journal._db.read(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchall())
    await asyncio.wait_for(insisting, 5)
    assert len((await journal.read(0, 0))[0]) == 2
