"""What the fence and the firewall tell becomes entries and news; neither is believed blindly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dns.message
import dns.rrset
import pytest
from tests.unit.node.test_records import make_record

from hutch.model import NetworkRules
from hutch.model.egress import EgressProcess
from hutch.network.ended import Ended, Place
from hutch.network.firewall import ALLOWED, ANSWER
from hutch.network.nflog import Packet
from hutch.node import egress, refusals
from hutch.node.activity import Activity
from hutch.node.egress import Egress
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Entry, Registry
from hutch.node.journal import Journal
from hutch.node.passing import MAX_OPEN
from hutch.node.refusals import MAX_NEWS
from hutch.node.resolutions import MAX_KEPT
from hutch.node.tracing import Tracing
from hutch.runtime.trace.events import Connecting, Event

RULES = NetworkRules(
    allow=["tcp://203.0.113.0/24:443", "udp://203.0.113.0/24:443", "203.0.113.7", "198.51.100.9:80-90"]
)
REFUSED = {"kind": "connection", "allowed": False, "name": "evil.test", "port": 443, "reason": "not in policy"}


class Node:
    """One with one sandbox."""

    def __init__(self, directory: Path) -> None:
        self.registry, self.log = Registry(), EgressLog(directory / "egress.db")
        self.journal = Journal(directory / "node.db")
        self.entry = Entry(make_record().but(network=RULES, slot=3, address="10.0.0.2"))
        self.registry.add(self.entry)
        self.activity = Activity(self.journal)
        self.heard: list[tuple[str, Event]] = []
        self.tracing = Tracing(self.registry, self.activity, self._catch_up)
        self.egress = Egress(self.registry, self.journal, self.log, self.activity, self.tracing)

    def _catch_up(self, id: str) -> None:
        """The kernel's words that wait."""
        heard, self.heard = self.heard, []
        for each in heard:
            self.tracing.heard(*each)

    async def journaled(self) -> list[str]:
        """What was told by now."""
        entries = (await self.journal.read(0, 0))[0]
        return [str(entry.data["message"]) for entry in entries if entry.kind == "egress_refused"]

    async def news(self) -> list[str]:
        """All that was told so far."""
        await self.egress.stop()
        return await self.journaled()

    async def decisions(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Events that the audit log is told of, by action and outcome."""
        await self.activity._write()
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in (await self.journal.read(0, 0))[0]:
            if entry.kind == "activity":
                kind = (entry.data["action"], entry.data["outcome"])
                found.setdefault(kind, []).extend(entry.data["detail"]["events"])
        return found


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.log.open()
    await made.journal.open()
    yield made
    await made.egress.stop()
    await made.activity.close()
    await made.log.close()
    await made.journal.close()


@pytest.mark.parametrize(
    "wrong", [{}, {"allowed": "?"}, {"kind": "poem"}, {"port": "x"}, {"sent": []}, {"surprise": 1}, {"sandbox": None}]
)
async def test_a_fence_that_was_taken_over_spoils_no_log(node: Node, wrong: dict[str, object]) -> None:
    said = REFUSED | {"sandbox": node.entry.id} | wrong if wrong else {"sandbox": node.entry.id}
    node.egress.told(dict(said))
    node.egress.told(REFUSED | {"sandbox": node.entry.id, "port": 444})
    assert [entry.port for entry in await node.log.read(node.entry.id, 0, 10, 5)] == [444]
    assert await node.news() == ["blocked: evil.test:444 (not in policy)"]


async def test_a_refusal_is_news_once_and_again_when_the_sandbox_has_been_paused(node: Node) -> None:
    for _ in range(3):
        node.egress.told(REFUSED | {"sandbox": node.entry.id})
    assert len(await node.news()) == 1
    node.egress.forget(node.entry)
    node.egress.told(REFUSED | {"sandbox": node.entry.id})
    assert len(await node.news()) == 2


@pytest.mark.parametrize(
    ("target", "port", "protocol", "rule"),
    [
        ("203.0.113.9", 443, "tcp", "tcp://203.0.113.0/24:443"),
        ("203.0.113.9", 443, "udp", "udp://203.0.113.0/24:443"),
        ("203.0.113.7", 22, "tcp", "203.0.113.7"),
        ("203.0.113.7", None, "icmp", "203.0.113.7"),
        ("198.51.100.9", 85, "tcp", "198.51.100.9:80-90"),
        ("198.51.100.9", None, "icmp", "public"),
    ],
)
async def test_the_rule_that_is_named_is_the_one_that_lets_it_through(
    node: Node, target: str, port: int | None, protocol: str, rule: str
) -> None:
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", target, protocol, 40000, port, b""))
    assert [entry.rule for entry in await node.log.read(node.entry.id, 0, 10, 5)] == [rule]


async def test_decisions_and_uses_of_secrets_are_told_to_the_audit_log_and_summed(node: Node) -> None:
    opened = {"sandbox": node.entry.id, "kind": "connection", "allowed": True, "name": "good.test", "port": 443}
    for sent in (10, 20):
        node.egress.told(opened | {"rule": "good.test", "sent": sent, "received": 1, "seconds": 0.1 * sent})
    node.egress.told({"sandbox": node.entry.id, "kind": "name", "allowed": False, "name": "a\x1b.test", "reason": "no"})
    sent = {"sandbox": node.entry.id, "kind": "secret", "allowed": True, "name": "api.test", "secret": "TOKEN"}
    node.egress.told(dict(sent))
    node.egress.told(sent | {"allowed": False, "reason": "not for this host"})
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.9", "tcp", 40000, 443, b""))
    found = await node.decisions()
    name, packet = found["connection", "allowed"]
    assert (name["name"], name["rule"], name["sent"], name["received"], name["count"]) == (
        "good.test",
        "good.test",
        30,
        2,
        2,
    )
    assert packet["rule"] == "tcp://203.0.113.0/24:443"
    assert [each["name"] for each in found["connection", "refused"]] == ["a?.test"]
    assert [each["secret"] for each in found["secret", "used"]] == ["TOKEN"]
    assert [each["reason"] for each in found["secret", "refused"]] == ["not for this host"]


async def test_the_process_is_the_one_whose_connect_fits_and_others_that_may_be_are_counted(node: Node) -> None:
    now = time.time()
    asked = [(7, "203.0.113.9", now - 3), (8, "203.0.113.9", now - 1), (9, "198.51.100.9", now)]
    for pid, address, at in asked:
        node.heard.append((node.entry.id, Connecting(at, pid, f"/bin/{pid}", "innocent\x1b", address, 443)))
    ended = {"sandbox": node.entry.id, "kind": "connection", "allowed": True, "address": "203.0.113.9", "port": 443}
    node.egress.told(ended | {"seconds": 1.0, "began": now - 0.99})
    node.egress.told(ended | {"seconds": 3.0, "began": now - 2.99})
    node.egress.told(ended | {"seconds": 0.0, "began": now})
    node.egress.firewall(Packet("", "10.0.0.2", "198.51.100.9", "tcp", 40000, 443, b""))
    found = [entry.process for entry in await node.log.read(node.entry.id, 0, 10, 5)]
    assert found[0] == EgressProcess(pid=8, path="/bin/8", name="innocent?", others=1)
    assert found[1] == EgressProcess(pid=7, path="/bin/7", name="innocent?")
    assert found[2] is None  # each connect is one connection's
    assert found[3] == EgressProcess(pid=9, path="/bin/9", name="innocent?")
    decided = await node.decisions()
    assert [(each["pid"], each["process"]) for each in decided["connection", "refused"]] == [(9, "/bin/9")]


async def test_a_name_is_asked_for_by_who_has_turned_to_a_name_server(node: Node) -> None:
    node.heard.append((node.entry.id, Connecting(time.time(), 7, None, "curl", "10.0.0.1", 53)))
    node.egress.told({"sandbox": node.entry.id, "kind": "name", "allowed": False, "name": "evil.test", "reason": "no"})
    (entry,) = await node.log.read(node.entry.id, 0, 10, 5)
    assert entry.process == EgressProcess(pid=7, path=None, name="curl")


async def test_an_end_is_its_beginnings_whoever_has_the_address_by_then(node: Node) -> None:
    place = Place("10.0.0.2", 40000, "tcp", "203.0.113.9", 443)
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.9", "tcp", 40000, 443, b""))
    brief = Place("10.0.0.2", 40001, "tcp", "203.0.113.9", 443)
    node.egress.ended(Ended(brief, 1, 1))  # before the firewall has told of it
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.9", "tcp", 40001, 443, b""))
    node.registry.remove(node.entry)
    other = Entry(make_record().but(id="sbx_other", network=RULES, slot=3, address="10.0.0.2"))
    node.registry.add(other)
    node.egress.ended(Ended(place, 1000, 2000))
    node.egress.ended(Ended(place, 1000, 2000, again=True))  # its entry in the kernel goes two minutes later
    await node.egress.stop()
    began, over = await node.log.read(node.entry.id, 0, 10, 5)
    assert (began.sent, began.reason, began.count) == (None, None, 2)
    assert (over.sent, over.received, over.count, over.rule) == (1001, 2001, 2, "tcp://203.0.113.0/24:443")
    assert over.seconds is not None
    assert await node.log.read(other.id, 0, 10, 0) == []
    node.egress.ended(Ended(place, 3000, 4000))  # it began before this daemon did
    await node.egress.stop()
    (unknown,) = await node.log.read(other.id, 0, 10, 5)
    assert (unknown.sent, unknown.seconds, unknown.rule) == (3000, None, "tcp://203.0.113.0/24:443")


async def test_a_flood_of_ends_is_counted(node: Node) -> None:
    for port in range(5000):
        node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.9", "tcp", port, 443, b""))
    assert len(node.egress._passing._open["10.0.0.2"]) == MAX_OPEN
    for port in range(5000):
        node.egress.ended(Ended(Place("10.0.0.2", port, "tcp", "203.0.113.9", port), 1, 1))
    await node.egress.stop()
    assert len(await node.log.read(node.entry.id, 0, 1000, 5)) <= 201


def told(name: str, *addresses: str) -> Packet:
    """What a name server says to the sandbox."""
    message = dns.message.make_response(dns.message.make_query(name, "A"))
    for address in addresses:
        message.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", address))
    return Packet(ANSWER, "192.0.2.53", "10.0.0.2", "udp", 53, 40000, message.to_wire())


async def test_names_that_an_open_sandbox_was_told_are_listed_and_those_of_its_connections(node: Node) -> None:
    for _ in range(3):
        node.egress.firewall(told("good.test", "203.0.113.9"))
    node.egress.firewall(told("good.test", "203.0.113.9", "203.0.113.10"))
    node.egress.firewall(told("good.test", "203.0.113.9"))
    node.egress.firewall(told("none.test"))
    node.egress.firewall(Packet(ANSWER, "192.0.2.53", "10.0.0.2", "udp", 53, 40000, b"no answer"))
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.10", "tcp", 40000, 443, b""))
    node.egress.firewall(Packet("refused", "10.0.0.2", "203.0.113.9", "tcp", 40000, 22, b""))
    node.egress.ended(Ended(Place("10.0.0.2", 1, "tcp", "203.0.113.9", 80), 1, 1))
    await node.egress.stop()
    found = await node.log.read(node.entry.id, 0, 10, 5)
    assert [(entry.kind, entry.target, entry.addresses) for entry in found] == [
        ("name", "good.test", ["203.0.113.9"]),
        ("name", "good.test", ["203.0.113.9", "203.0.113.10"]),
        ("name", "none.test", []),
        ("connection", "good.test:443", []),
        ("connection", "good.test:22", []),
        ("connection", "good.test:80", []),
    ]
    for number in range(2 * MAX_KEPT):
        node.egress.firewall(told(f"n{number}.test", f"198.18.{number // 250}.{number % 250}"))
    kept = node.egress._resolved[node.entry]
    assert len(kept._names) == len(kept._told) == MAX_KEPT
    node.egress.forget(node.entry)
    assert node.entry not in node.egress._resolved


async def test_what_the_fence_says_of_a_name_counts_for_connections_past_it(node: Node) -> None:
    name = {"sandbox": node.entry.id, "kind": "name", "allowed": True, "name": "good.test"}
    node.egress.told(name | {"addresses": ["203.0.113.9"]})
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", "203.0.113.9", "tcp", 40000, 443, b""))
    _, connection = await node.log.read(node.entry.id, 0, 10, 5)
    assert connection.target == "good.test:443"


async def test_refusals_that_are_too_many_to_be_told_are_counted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "FIRST", 0.01)
    for number in range(MAX_NEWS + 41):
        for port in (80, 443):
            node.egress.told(REFUSED | {"sandbox": node.entry.id, "name": f"n{number}.test", "port": port})
    brief = {"kind": "connection", "allowed": False, "reason": "more than can be listed", "count": 5000}
    node.egress.told(brief | {"sandbox": node.entry.id})
    async with asyncio.timeout(10):
        while len(news := await node.journaled()) <= MAX_NEWS:
            await asyncio.sleep(0.01)
    more = f"blocked: {5000 + 2 * (MAX_NEWS + 41) - MAX_NEWS:,} more of {50 + 41} places"
    assert news[-1] == f"{more}; the egress log has the newest"
    node.egress.told(REFUSED | {"sandbox": node.entry.id, "name": "n0.test", "port": 443})  # known
    node.egress.told(REFUSED | {"sandbox": node.entry.id, "name": "last.test"})
    assert (await node.news())[MAX_NEWS + 1 :] == ["blocked: 1 more of 1 place; the egress log has the newest"]


async def test_what_the_firewall_refuses_and_does_not_tell_is_counted(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "TOLD_SECONDS", 0.01)
    for counted in (10, 10, 1000):
        slots = SimpleNamespace(refusals=partial(asyncio.sleep, 0, {"10.0.0.2": counted, "10.0.0.9": 7}))
        for port in range(5):
            node.egress.firewall(Packet("refused", "10.0.0.2", "203.0.113.9", "tcp", 40000, port, b""))
        await node.egress.count(cast(Any, slots))
    node.log._refusals.flush()
    found = await node.log.read(node.entry.id, 0, 100, 5)
    assert sum(entry.count for entry in found) == 1000
    assert sum(entry.count for entry in found if entry.reason == "more than can be listed") == 1000 - 15
