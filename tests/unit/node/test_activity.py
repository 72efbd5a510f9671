"""What goes on in sandboxes is gathered, and bounded, whatever a guest does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.test_records import make_record

from hutch.errors import DiskFull
from hutch.model.audit import canonical
from hutch.node import activity as gathering
from hutch.node.activity import BURST, MAX_BRIEF, Activity
from hutch.node.entry import Entry, Registry
from hutch.node.journal import Journal
from hutch.node.tracing import STARTED, Tracing
from hutch.runtime.trace.events import Connecting, Lost, Started
from hutch.store.audit import MAX_DETAIL


class Node:
    def __init__(self, directory: Path) -> None:
        self.journal = Journal(directory / "node.db")
        self.activity = Activity(self.journal)

    async def told(self) -> list[dict[str, Any]]:
        """All details of the journal, after a flush."""
        await self.activity._write()
        return [entry.data["detail"] for entry in (await self.journal.read(0, 0))[0]]


@pytest.fixture
async def node(memory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(gathering, "FLUSH_SECONDS", 3600.0)
    made = Node(memory)
    await made.journal.open()
    yield made
    await made.activity.close()
    await made.journal.close()


def start(number: int, **more: Any) -> dict[str, Any]:
    return {"path": f"/bin/{number}", "argv": ["x" * 50], "pid": number} | more


async def test_the_same_is_told_once_with_a_count_and_sums(node: Node) -> None:
    for pid in (5, 6, 7):
        node.activity.note("sbx", STARTED, start(1, pid=pid, sent=10))
    node.activity.note("sbx", STARTED, start(2))
    (detail,) = await node.told()
    first, second = detail["events"]
    assert (first["count"], first["pid"], first["sent"]) == (3, 5, 30)
    assert "count" not in second
    assert first["time"].endswith("Z")


async def test_every_entry_fits_into_an_audit_record(node: Node) -> None:
    for number in range(300):
        node.activity.note("sbx", STARTED, start(number, argv=["\u20ac" * 30] * (number % 9)))
    details = await node.told()
    assert all(len(canonical(detail)) <= MAX_DETAIL and len(detail["events"]) <= 64 for detail in details)
    assert [event["pid"] for detail in details for event in detail["events"]] == list(range(300))


async def test_a_flood_is_told_in_brief_then_counted_and_hides_nothing_of_another_kind(node: Node) -> None:
    burst = int(BURST)
    for number in range(burst + 500):
        node.activity.note("sbx", STARTED, start(number % burst, argv=[str(number)]), least=("path",))
    node.activity.note("sbx", ("connection", "refused"), {"name": "evil.test"})
    node.activity.note("other", STARTED, start(1))
    details = await node.told()
    events = [event for detail in details for event in detail["events"]]
    brief = [event for event in events if "path" in event and "argv" not in event]
    assert len(brief) == MAX_BRIEF
    counted = sum(event.get("count", 1) for event in events) + sum(detail.get("left_out", 0) for detail in details)
    assert counted == burst + 500 + 2
    assert {"name": "evil.test"}.items() <= events[-2].items()
    assert len(events) <= burst + MAX_BRIEF + 100


async def test_what_could_not_be_written_is_counted_in_the_next(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    append = node.journal.append

    async def full(*_: Any) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(node.journal, "append", full)
    node.activity.note("sbx", STARTED, start(1))
    assert await node.told() == []
    monkeypatch.setattr(node.journal, "append", append)
    assert await node.told() == [{"events": [], "left_out": 1}]


async def test_a_server_that_has_it_lets_it_go_and_nothing_else(node: Node) -> None:
    node.activity.note("sbx", STARTED, start(1))
    await node.told()
    await node.journal.append("sbx", "limit", {})
    await node.journal.trim()
    assert len((await node.journal.read(0, 0))[0]) == 2  # read from the beginning: nobody has it yet
    await node.journal.read(2, 0)
    await node.journal.trim()
    assert [entry.kind for entry in (await node.journal.read(0, 0))[0]] == ["limit"]


async def test_what_a_kernel_tells_is_its_sandboxs_whoever_it_was_before(node: Node) -> None:
    registry = Registry()
    member, claimed = Entry(make_record().but(id="wrm_" + "a" * 22)), Entry(make_record().but(member="wrm_" + "a" * 22))
    tracing = Tracing(registry, node.activity, lambda id: None)
    registry.add(member)
    tracing.heard(member.id, Started(1e9, 3, None, "/bin/rehearsal", (), "/", 0))
    registry.add(claimed)
    tracing.heard(member.id, Started(1e9, 4, 3, "/bin/\x1b[2J", ("a\nb",), "/", 1000))
    tracing.heard(member.id, Connecting(1e9, 4, "/bin/x", "curl", "203.0.113.9", 443))
    tracing.heard(member.id, Lost(2))
    tracing.heard("sbx_unknown", Lost(2))
    await node.activity._write()
    entries = (await node.journal.read(0, 0))[0]
    assert {entry.sandbox for entry in entries} == {claimed.id}
    (started,), (connecting,) = (entry.data["detail"]["events"] for entry in entries)
    assert (started["path"], started["argv"], started["parent"], started["uid"]) == ("/bin/?[2J", ["a?b"], 3, 1000)
    assert (connecting["path"], connecting["name"], connecting["port"]) == ("/bin/x", "curl", 443)
    assert entries[0].data["detail"]["lost"] == 2
