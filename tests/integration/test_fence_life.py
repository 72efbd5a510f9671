"""The fence over time: changes while connections are open, crashes, and everything that a sandbox goes through."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fence.world import EVIL, GOOD, SHARED, World, a_world

pytestmark = pytest.mark.root

HOLD = f"""
import socket, sys, time
held = socket.create_connection((socket.gethostbyname("good.test"), 80), 5)
direct = socket.create_connection(("{EVIL}", 5432), 5)
direct.recv(10)
request = b"GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n"
held.sendall(request)
print("open" if held.recv(1000) else "", flush=True)
came = []
for connection, sent in ((held, request), (direct, b"x"))[:int(sys.argv[1])]:
    connection.settimeout(20)
    try:
        while True:
            connection.sendall(sent)
            if not connection.recv(1000): came.append("closed"); break
            time.sleep(0.02)
    except ConnectionError: came.append("reset")
    except TimeoutError: came.append("silence")
direct.sendall(b"x") if len(came) == 1 else None
print(came, flush=True)
"""

GET = {"do": "tcp", "to": [GOOD, 80], "parts": ["GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"]}
LOOK = {"do": "lookup", "name": "good.test"}
DIRECT = {"do": "tcp", "to": [EVIL, 5432], "first": True}
RULES = ("good.test", f"{EVIL}:5432")


FLOOD = f"""
import socket, time
end = time.time() + 4
while time.time() < end:
    try: socket.create_connection(("{EVIL}", 81), 1)
    except OSError: pass
"""


@pytest.fixture(scope="module")
def world(standard_template: str) -> Iterator[World]:
    with a_world() as made:
        yield made


def works(world: World, box: dict[str, Any]) -> None:
    """What the rules allow works, and nothing else."""
    found, got, direct, other = world.run(box, LOOK, GET, DIRECT, {"do": "tcp", "to": [EVIL, 80]}, timeout=60)
    assert found == [GOOD]
    assert "200 OK" in got[0]
    assert direct == ["hello\n"]
    assert other == "refused"


def hold(world: World, box: dict[str, Any], count: int = 2) -> str:
    """A program that holds two connections, one to a name and one to an address, until the first of them are cut;
    returns when it has them."""
    shell = f"python3 -c '{HOLD}' {count} > /tmp/held 2>&1"
    process = world.node.start_process(box, shell)
    for _ in range(200):
        if "open" in world.node.exec(box, "cat /tmp/held").stdout:
            return process
        time.sleep(0.05)
    raise AssertionError(world.node.exec(box, "cat /tmp/held").stdout)


def held(world: World, box: dict[str, Any], process: str) -> str:
    world.node.follow(box, process)
    return world.node.exec(box, "tail -1 /tmp/held").stdout.strip()


def test_a_change_takes_effect_at_once_and_cuts_what_is_not_allowed_any_more(world: World) -> None:
    box = world.sandbox(*RULES)
    works(world, box)
    process = hold(world, box)
    assert world.policy(box, network={"mode": "deny_all"}) < 1
    assert held(world, box, process) == "['reset', 'reset']"
    assert world.run(box, LOOK, GET, DIRECT) == ["gaierror -3", "refused", "refused"]
    world.policy(box, *RULES)
    works(world, box)
    process = hold(world, box)
    world.policy(box, "good.test", "api.good.test")  # the address goes, the name stays
    world.policy(box, "api.good.test")
    assert held(world, box, process) == "['reset', 'reset']"
    found, api, old = world.run(
        box,
        {"do": "lookup", "name": "api.good.test"},
        {"do": "tcp", "to": [SHARED, 80], "parts": ["GET / HTTP/1.1\r\nHost: api.good.test\r\n\r\n"]},
        GET,
    )
    assert found == [SHARED]
    assert "200 OK" in api[0]
    assert old == "reset"  # its address is known for a while yet, its name is not allowed
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_crash_of_the_fence_closes_and_reopens(world: World) -> None:
    box, free = world.sandbox(*RULES), world.sandbox(network={"mode": "allow_all"})
    works(world, box)
    process = hold(world, box, 1)
    fence = world.fence()
    os.kill(fence, signal.SIGKILL)
    assert held(world, box, process) in ("['reset']", "['closed']")  # and the one to an address goes on
    assert world.run(free, DIRECT) == [["hello\n"]]
    reopened(world, box, fence)
    for each in (box, free):
        world.node.call("DELETE", f"/sandboxes/{each['id']}")


def reopened(world: World, box: dict[str, Any], fence: int) -> None:
    """There is another fence, and names are reached again once they have been asked for."""
    assert world.fence() != fence
    end = time.monotonic() + 20
    while world.run(box, LOOK)[0] != [GOOD]:
        assert time.monotonic() < end
    works(world, box)


def test_a_fence_that_hangs_when_it_is_told_something_is_started_anew(world: World) -> None:
    box = world.sandbox(*RULES)
    fence = world.fence()
    os.kill(fence, signal.SIGSTOP)
    world.policy(box, "good.test", f"{EVIL}:5432", "api.good.test")
    reopened(world, box, fence)
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_policies_outlive_the_node_pauses_rollbacks_and_forks(world: World) -> None:
    box = world.sandbox(*RULES)
    snapshot = world.node.snapshot(box)
    box = {**box, **(world.node.sandbox(box["id"]) or {})}
    world.node.kill()
    world.node.start()
    box = {**box, **(world.node.sandbox(box["id"]) or {})}
    works(world, box)
    world.node.pause(box)
    box = world.node.resume(box)
    works(world, box)
    box = world.node.rollback(box, snapshot["id"])
    works(world, box)
    fork = world.node.boot(network={"mode": "rules", "allow": list(RULES)}, from_snapshot=snapshot["id"])
    works(world, fork)
    world.node.pause(box, kind="disk")
    box = world.node.resume(box)
    works(world, box)
    for each in (box, fork):
        world.node.call("DELETE", f"/sandboxes/{each['id']}")


def test_limits_hold_and_others_do_not_feel_a_flood(world: World) -> None:
    limits = {"connections": 20, "new_connections": 10}
    box, other = world.sandbox(*RULES, limits=limits), world.sandbox(*RULES)
    code = f"""
import socket, time
socket.gethostbyname("good.test")
def many(count, pause):
    opened = []
    for _ in range(count):
        time.sleep(pause)
        try: opened.append(socket.create_connection(({EVIL!r}, 5432), 3))
        except OSError: pass
    return opened
fast = many(100, 0); early = len(fast)
for each in fast: each.close()
time.sleep(3)
slow = many(40, 0.15)
result = [early, len(slow)]
"""
    ((early, late),) = world.run(box, {"do": "python", "code": code})
    assert 10 <= early <= 40
    assert late <= 20
    flood = world.node.start_process(box, f"python3 -c '{FLOOD}'")
    works(world, other)
    world.node.follow(box, flood)
    for each in (box, other):
        world.node.call("DELETE", f"/sandboxes/{each['id']}")


def test_a_slow_loris_is_ended_and_does_not_keep_others_out(world: World) -> None:
    box = world.sandbox(*RULES)
    code = """
import socket, time
address = socket.gethostbyname("good.test")
held, came = [], []
for n in range(80):
    time.sleep(0.011)
    connection = socket.create_connection((address, 80), 10)
    try: connection.sendall(b"GET / HTT")
    except ConnectionError: came.append("reset")  # one too many: it may come so soon
    else: held.append(connection)
start = time.monotonic()
for connection in held:
    connection.settimeout(20)
    try: came.append(connection.recv(10) and "data" or "closed")
    except ConnectionError: came.append("reset")
    except TimeoutError: came.append("silence")
result = [set(came) == {"reset"}, time.monotonic() - start]
"""
    ((all_reset, took),) = world.run(box, {"do": "python", "code": code})
    assert all_reset
    assert took < 18
    works(world, box)
    world.node.call("DELETE", f"/sandboxes/{box['id']}")


def test_a_bandwidth_cap_holds_both_ways(world: World) -> None:
    box = world.sandbox("good.test", limits={"mbit": 8})
    code = """
import socket, time
connection = socket.create_connection((socket.gethostbyname("good.test"), 80), 40)
start, size = time.monotonic(), 3_000_000
connection.sendall(b"GET /bytes/%d HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n" % size)
got = 0
while got < size: got += len(connection.recv(65536))
down = time.monotonic() - start
start = time.monotonic()
connection.sendall(b"POST / HTTP/1.1\\r\\nHost: good.test\\r\\nContent-Length: %d\\r\\n\\r\\n" % size + bytes(size))
connection.recv(1000)
result = [down, time.monotonic() - start]
"""
    (came,) = world.run(box, {"do": "python", "code": code}, timeout=100)
    assert isinstance(came, list), came
    down, up = came
    assert down > 1.5  # 24 megabits: three seconds at 8 a second, of which the first one's come at once
    assert up > 1.5
    world.node.call("DELETE", f"/sandboxes/{box['id']}")
