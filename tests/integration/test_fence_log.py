"""The egress log of real sandboxes: by the fence, by the firewall, over a crash of the node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fence.world import EVIL, GOOD, World, a_world

from hutch.model.egress import EgressEntry
from hutch.model.learning import learned

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(standard_template: str) -> Iterator[World]:
    with a_world() as made:
        yield made


def entries(world: World, box: dict[str, Any], last: str) -> list[EgressEntry]:
    """All, once one with this message is there."""
    found: list[EgressEntry] = []
    end = time.monotonic() + 20
    while not any(last in entry.message for entry in found):
        assert time.monotonic() < end, [entry.message for entry in found]
        after = found[-1].seq if found else 0
        page = world.node.call("GET", f"/sandboxes/{box['id']}/egress?after={after}&limit=1000&wait=5").json()
        found += [EgressEntry.model_validate(entry) for entry in page["entries"]]
    return found


REACH = (
    {"do": "lookup", "name": "good.test"},
    {"do": "tcp", "to": [GOOD, 80], "parts": ["GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"]},
    {"do": "tcp", "to": [GOOD, 80], "parts": ["GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"]},
    {"do": "lookup", "name": "evil.test"},
    {"do": "tcp", "to": [EVIL, 5432], "first": True},
    {"do": "udp", "to": [EVIL, 9999]},
    {"do": "tcp", "to": [EVIL, 22]},
)


def test_everything_is_told_with_its_reason(world: World) -> None:
    box = world.sandbox("good.test", f"{EVIL}:5432")
    world.run(box, *REACH)
    found = entries(world, box, f"{EVIL}:22")
    by = {(entry.kind, entry.target, entry.allowed): entry for entry in found}
    name = by["name", "good.test", True]
    assert name.addresses == [GOOD]
    allowed = by["connection", "good.test:80", True]
    assert (allowed.rule, allowed.address) == ("good.test", GOOD)
    assert allowed.sent == len("GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    assert allowed.received is not None
    assert allowed.received > 50
    assert allowed.process is not None
    assert str(allowed.process.path).startswith("/usr/bin/python3")
    assert by["connection", f"{EVIL}:5432", True].process == allowed.process
    assert by["connection", "evil.test:80", False].message == "blocked: evil.test:80 (not in policy)"
    assert by["name", "evil.test", False].message == "blocked: evil.test (not in policy)"
    assert by["connection", f"{EVIL}:5432", True].rule == f"{EVIL}:5432".replace(EVIL, f"{EVIL}")
    assert by["connection", f"{EVIL}:9999", False].protocol == "udp"
    news = [entry["data"]["message"] for entry in world.node.journal(box["id"], "egress_refused")]
    assert "blocked: evil.test:80 (not in policy)" in news
    assert f"blocked: {EVIL}:22 (not in policy)" in news
    world.node.kill()
    world.node.start()
    assert entries(world, box, f"{EVIL}:22") == found
    world.node.call("DELETE", f"/sandboxes/{box['id']}")
    assert entries(world, box, f"{EVIL}:22") == found


def test_what_a_closed_sandbox_asked_for_is_told(world: World) -> None:
    box = world.sandbox(network={"mode": "deny_all"})
    world.run(box, *REACH)
    messages = {entry.message for entry in entries(world, box, f"{EVIL}:22")}
    assert "blocked: evil.test (not in policy)" in messages
    assert f"blocked: {EVIL}:5432 (not in policy)" in messages
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_policy_is_learned_from_an_open_run(world: World) -> None:
    box = world.sandbox(public=True)
    world.run(box, *REACH[:2], *REACH[4:6])
    entries(world, box, f"{EVIL}:9999")
    found = entries(world, box, f"{EVIL}:5432 (it has ended)")
    (over,) = (entry for entry in found if entry.port == 5432 and entry.reason == "it has ended")
    assert over.rule == "public"
    assert over.process is not None
    assert over.sent is not None and over.received is not None
    assert 100 < over.sent < 1000, "some packets without content"
    assert over.received > 100 + len("hello")
    assert over.seconds is not None and over.seconds < 30
    policy = learned(found)
    assert policy.allow == ["good.test", f"tcp://{EVIL}:5432", f"udp://{EVIL}:9999"]
    world.policy(box, network=policy.model_dump(mode="json"))
    came = world.run(box, *REACH)
    assert "200 OK" in came[1][0]
    assert came[2:4] == ["reset", "gaierror -2"]
    assert came[4] == ["hello\n"]
    assert came[6] == "refused"
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_flood_of_refusals_is_bounded(world: World) -> None:
    box = world.sandbox("good.test")
    code = f"""
import socket
for port in range(1, 3000):
    try: socket.create_connection(({EVIL!r}, port), 1)
    except OSError: pass
"""
    start = time.monotonic()
    world.run(box, {"do": "python", "code": code}, timeout=100)
    took = time.monotonic() - start
    found = entries(world, box, "more than can be listed")
    assert sum(entry.count for entry in found if entry.reason == "not in policy") < 60 + 11 * (took + 2)
    end = time.monotonic() + 20
    while (counted := sum(entry.count for entry in found)) < 2999 and time.monotonic() < end:
        time.sleep(1)  # those that the firewall does not tell are counted every few seconds
        found = entries(world, box, "more than can be listed")
    assert 2999 <= counted < 3100, "some were asked for by others in the sandbox"
    assert len(world.node.journal(box["id"], "egress_refused")) <= 110
    world.node.call("DELETE", f"/sandboxes/{box['id']}")
