"""What the fence and the firewall tell becomes entries and news; neither is believed blindly."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.node.test_records import make_record

from hutch.model import NetworkRules
from hutch.network.firewall import ALLOWED
from hutch.network.nflog import Packet
from hutch.node.egress import Egress
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Entry, Registry
from hutch.node.journal import Journal

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
        self.egress = Egress(self.registry, self.journal, self.log)

    async def news(self) -> list[str]:
        """All that was told so far."""
        await self.egress.stop()
        return [str(entry.data["message"]) for entry in (await self.journal.read(0, 0))[0]]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    await made.log.open()
    await made.journal.open()
    yield made
    await made.egress.stop()
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
    node.egress.firewall(Packet(ALLOWED, "10.0.0.2", target, protocol, port, b""))
    assert [entry.rule for entry in await node.log.read(node.entry.id, 0, 10, 5)] == [rule]
