"""Pause, resume, snapshots, rollback and fork on the node, with real sandboxes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.leaks import look
from tests.node_host import NodeHost, boot_request

from hutch.model import is_id, new_id

pytestmark = pytest.mark.root

REMEMBER = r"""
import hashlib, os, sys, time
kept = os.urandom(1 << 20)
open("/home/user/file", "wb").write(kept)
count = 0
while True:
    count += 1
    with open("/home/user/file", "rb") as file:
        same = file.read() == kept
    print(count, hashlib.sha256(kept).hexdigest(), same, flush=True)
    time.sleep(0.1)
"""


def start_counter(node: NodeHost, sandbox: dict[str, Any]) -> str:
    """A process that counts, and compares its memory with its file."""
    node.exec(sandbox, f"cat > /tmp/remember.py <<'END'\n{REMEMBER}\nEND")
    return node.start_process(sandbox, "exec python3 /tmp/remember.py")


def read_output(node: NodeHost, sandbox: dict[str, Any], process: str, start: int) -> tuple[bytes, int]:
    """What it has printed from this offset on, so far, and the offset to go on from."""
    path = f"/hutch/processes/{process}/output?from={start}&follow=0"
    with closing(node.guest(sandbox)) as connection:
        connection.request("GET", path, headers={"X-Access-Token": sandbox["guest_token"]})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        said = b""
        while header := response.read(13):
            start, length = int.from_bytes(header[1:9], "big"), int.from_bytes(header[9:13], "big")
            payload = response.read(length)
            said += payload if header[0] == 1 else b""
        return said, start


def at_least(node: NodeHost, sandbox: dict[str, Any], process: str, start: int, lines: int) -> tuple[bytes, int]:
    """`read_output`, once there are so many lines."""
    end = time.monotonic() + 30
    while True:
        said, offset = read_output(node, sandbox, process, start)
        if said.count(b"\n") >= lines:
            return said, offset
        assert time.monotonic() < end, said
        time.sleep(0.1)


def identity(node: NodeHost, sandbox: dict[str, Any]) -> list[str]:
    """Host name, boot id, id and one own address, as seen inside."""
    said = node.exec(sandbox, "hostname; cat /run/hutch/boot_id; echo $HUTCH_SANDBOX_ID; cat /etc/hostname")
    return said.stdout.split()


def test_five_pauses_lose_neither_memory_nor_files_nor_output(node: NodeHost) -> None:
    sandbox = node.boot()
    process = start_counter(node, sandbox)
    said, offset = at_least(node, sandbox, process, 0, 3)
    addresses = {sandbox["address"]}
    tokens = {sandbox["guest_token"]}
    for cycle in range(5):
        snapshot = new_id("snp")
        paused = node.pause(sandbox, snapshot)
        assert (paused["state"], paused["snapshot"], paused["address"]) == ("paused", snapshot, "")
        assert paused["memory_bytes"] == 0 and paused["disk_bytes"] > 1 << 20
        assert node.sandbox(sandbox["id"]) is not None
        left = look(node.id, node.root)
        assert not any(sandbox["id"] in name for name in (*left.cgroups, *left.processes))
        before = sandbox
        sandbox = node.resume(sandbox)
        assert sandbox["state"] == "running" and sandbox["resumed_ms"] > 0 and sandbox["snapshot"] is None
        assert sandbox["boot_id"] == before["boot_id"]
        assert sandbox["cpu_seconds"] >= before["cpu_seconds"]
        addresses.add(sandbox["address"])
        tokens.add(sandbox["guest_token"])
        more, offset = at_least(node, sandbox, process, offset, 3)
        said += more
        assert len(addresses) == len(tokens) == cycle + 2
    counts, digests, same = zip(*(line.split() for line in said.decode().splitlines()), strict=True)
    assert [int(count) for count in counts] == list(range(1, len(counts) + 1))
    assert len(set(digests)) == 1 and set(same) == {"True"}
    assert identity(node, sandbox) == [
        sandbox["id"].replace("_", "-"),
        sandbox["boot_id"],
        sandbox["id"],
        sandbox["id"].replace("_", "-"),
    ]
    assert [entry["data"]["snapshot"] for entry in node.journal(sandbox["id"], "sandbox_paused")] == [
        record["id"] for record in node.snapshots(sandbox["id"])
    ]
    assert len(node.journal(sandbox["id"], "sandbox_resumed")) == 5
    records = node.snapshots(sandbox["id"])
    assert [record["parent"] for record in records] == [None, *(record["id"] for record in records[:-1])]
    assert {record["reason"] for record in records} == {"pause"}
    assert node.call("DELETE", f"/sandboxes/{sandbox['id']}").status == 200
    assert node.snapshots() == []


def test_a_pause_and_a_resume_may_be_repeated_and_happen_once(node: NodeHost) -> None:
    sandbox = node.boot()
    ids = [new_id("snp") for _ in range(4)]
    paused = node.at_once(*(lambda id=id: node.pause(sandbox, id) for id in ids))
    assert {each["snapshot"] for each in paused} == {paused[0]["snapshot"]}
    assert len(node.snapshots()) == 1
    resumed = node.at_once(*(lambda: node.resume(sandbox) for _ in range(4)))
    assert len({(each["address"], each["guest_token"]) for each in resumed}) == 1
    assert len(node.journal(sandbox["id"], "sandbox_resumed")) == 1
    late = node.call("POST", f"/sandboxes/{sandbox['id']}/pause", {"snapshot": paused[0]["snapshot"]})
    assert late.status == 409 and late.json()["code"] == "already_exists"
    assert node.exec(resumed[0], "echo alive").stdout == "alive\n"


def test_a_paused_sandbox_takes_no_calls_and_keeps_its_settings(node: NodeHost) -> None:
    sandbox = node.boot(resources={"cpus": 0.5}, env={"COLOUR": "blue"})
    with closing(node.port(sandbox["id"], 49983, timeout=5)) as idle:
        node.pause(sandbox)
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
    with pytest.raises(ConnectionError, match="sandbox_not_found"):
        node.port(sandbox["id"], 49983)
    deadline = time.time() + 500
    assert node.call("PUT", f"/sandboxes/{sandbox['id']}/deadline", {"deadline": deadline}).status == 200
    assert node.call("PUT", f"/sandboxes/{sandbox['id']}/network", {"mode": "allow_all"}).status == 200
    again = node.call("PUT", f"/sandboxes/{sandbox['id']}", boot_request())
    assert again.status == 200 and again.json()["state"] == "paused"
    assert node.call("GET", "/health").json()["paused"] == 1
    resumed = node.resume(sandbox)
    assert resumed["deadline"] == deadline
    assert node.exec(resumed, "echo $COLOUR").stdout == "blue\n"
    refused = node.guest(resumed)
    with closing(refused):
        refused.request("GET", "/hutch/processes", headers={"X-Access-Token": sandbox["guest_token"]})
        assert refused.getresponse().status == 401
    started = time.monotonic()
    busy = "python3 -c 'import time; end = time.time() + 3\nwhile time.time() < end: pass'"
    before = node.sandbox(sandbox["id"])
    node.exec(resumed, busy)
    after = node.sandbox(sandbox["id"])
    assert before is not None and after is not None
    assert (after["cpu_seconds"] - before["cpu_seconds"]) / (time.monotonic() - started) < 0.65


def test_the_lifetime_of_a_paused_sandbox_ends_and_its_named_snapshot_stays(node: NodeHost) -> None:
    sandbox = node.boot()
    kept = node.snapshot(sandbox, name="kept", created_by="me")
    node.pause(sandbox)
    node.call("PUT", f"/sandboxes/{sandbox['id']}/deadline", {"deadline": time.time() + 0.5})
    dead = node.wait_dead(sandbox["id"])
    assert dead["death"] == "its lifetime is over" and dead["state"] == "dead"
    (left,) = node.snapshots()
    assert (left["id"], left["name"], left["created_by"]) == (kept["id"], "kept", "me")
    assert node.call("DELETE", f"/snapshots/{kept['id']}").status == 204
    assert node.call("DELETE", f"/snapshots/{kept['id']}").status == 404


def test_a_snapshot_leaves_the_sandbox_running_and_may_be_asked_for_twice(node: NodeHost) -> None:
    sandbox = node.boot()
    process = start_counter(node, sandbox)
    _, offset = at_least(node, sandbox, process, 0, 2)
    taken = node.snapshot(sandbox)
    assert taken["stopped_ms"] > 0 and taken["reason"] == "manual" and taken["template"] == "standard"
    assert taken["resources"]["disk_mib"] == 256 and taken["runtime"]["image"]
    assert node.snapshot(sandbox, snapshot=taken["id"])["created_at"] == taken["created_at"]
    assert at_least(node, sandbox, process, offset, 3)
    other = node.boot()
    refused = node.call("POST", f"/sandboxes/{other['id']}/snapshots", {"snapshot": taken["id"]})
    assert refused.status == 409 and refused.json()["code"] == "already_exists"
    node.pause(sandbox)
    of_paused = node.snapshot(sandbox, name="same")
    assert of_paused["stopped_ms"] == 0 and of_paused["id"] != taken["id"]
    assert node.boot(from_snapshot=of_paused["id"])["state"] == "running"


def test_three_forks_share_their_past_and_nothing_else(node: NodeHost) -> None:
    sandbox = node.boot(env={"COLOUR": "blue"})
    process = start_counter(node, sandbox)
    past, _ = at_least(node, sandbox, process, 0, 3)
    taken = node.snapshot(sandbox)
    forks = node.at_once(*(lambda n=n: node.boot(from_snapshot=taken["id"], env={"FORK": str(n)}) for n in range(3)))
    everyone = [sandbox, *forks]
    for name in ("id", "address", "guest_token", "boot_id"):
        assert len({each[name] for each in everyone}) == 4, name
    drawn = set()
    for n, fork in enumerate(forks):
        name = fork["id"].replace("_", "-")
        assert identity(node, fork) == [name, fork["boot_id"], fork["id"], name]
        assert node.exec(fork, "echo $FORK-$COLOUR").stdout == f"{n}-\n"
        said, _ = at_least(node, fork, process, 0, 6)
        assert said.startswith(past)
        drawn.add(node.exec(fork, "head -c 16 /dev/urandom | od -An -tx1").stdout)
        drawn.add(
            node.exec(fork, "python3 -c 'import random, secrets; print(random.random(), secrets.token_hex())'").stdout
        )
        assert fork["user"] == sandbox["user"] and fork["workdir"] == sandbox["workdir"]
        with closing(node.guest(fork)) as connection:
            connection.request("GET", "/hutch/processes", headers={"X-Access-Token": sandbox["guest_token"]})
            assert connection.getresponse().status == 401
    assert len(drawn) == 6
    child = node.snapshot(forks[0])
    assert child["parent"] == taken["id"] and child["sandbox_id"] == forks[0]["id"]


def test_a_rollback_brings_back_memory_and_files_and_can_be_taken_back(node: NodeHost) -> None:
    sandbox = node.boot()
    node.exec(sandbox, "echo one > /home/user/f")
    first = node.snapshot(sandbox, name="first")
    node.exec(sandbox, "echo two > /home/user/f")
    safety = new_id("snp")
    request = {"snapshot": first["id"], "safety": safety}
    answer = node.call("POST", f"/sandboxes/{sandbox['id']}/rollback", request)
    assert answer.status == 200
    back = answer.json()
    assert back["id"] == sandbox["id"] and back["state"] == "running" and back["boot_id"] == sandbox["boot_id"]
    assert node.exec(back, "cat /home/user/f").stdout == "one\n"
    again = node.call("POST", f"/sandboxes/{sandbox['id']}/rollback", request).json()
    assert again["guest_token"] == back["guest_token"]
    (entry,) = node.journal(sandbox["id"], "sandbox_rolled_back")
    assert (entry["data"]["snapshot"], entry["data"]["safety"]) == (first["id"], safety)
    saved = {record["id"]: record for record in node.snapshots()}[safety]
    assert (saved["reason"], saved["parent"]) == ("safety", first["id"])
    node.pause(back)
    forward = node.rollback(back, safety)
    assert node.exec(forward, "cat /home/user/f").stdout == "two\n"


def test_a_rollback_that_fails_leaves_the_sandbox_as_it_was(node: NodeHost) -> None:
    sandbox = node.boot()
    node.exec(sandbox, "echo one > /home/user/f")
    first = node.snapshot(sandbox)
    unknown = {"snapshot": new_id("snp"), "safety": new_id("snp")}
    refused = node.call("POST", f"/sandboxes/{sandbox['id']}/rollback", unknown)
    assert refused.status == 404 and refused.json()["code"] == "snapshot_not_found"
    node.exec(sandbox, "echo two > /home/user/f")
    (node.node_dir / "snapshots" / "hot" / first["id"] / "checkpoint.img").write_bytes(b"nonsense")
    answer = node.call(
        "POST", f"/sandboxes/{sandbox['id']}/rollback", {"snapshot": first["id"], "safety": new_id("snp")}
    )
    assert answer.status == 500 and answer.json()["code"] == "thaw_failed", answer.body
    assert "it runs on as it was" in answer.json()["detail"]
    known = node.sandbox(sandbox["id"])
    assert known is not None and known["state"] == "running"
    assert node.exec(known, "cat /home/user/f").stdout == "two\n"
    assert node.snapshot(known)["parent"] == answer.json()["safety"]


def test_what_a_paused_sandbox_stands_on_cannot_be_deleted(node: NodeHost) -> None:
    sandbox = node.boot()
    first = node.snapshot(sandbox)
    paused = node.pause(sandbox)
    refused = node.call("DELETE", f"/snapshots/{paused['snapshot']}")
    assert refused.status == 409 and refused.json()["code"] == "conflict"
    assert node.call("DELETE", f"/snapshots/{first['id']}").status == 204
    (left,) = node.snapshots()
    assert left["id"] == paused["snapshot"] and left["parent"] is None
    node.resume(sandbox)
    assert node.call("DELETE", f"/snapshots/{paused['snapshot']}").status == 204
    assert node.snapshot(sandbox)["parent"] is None


def test_a_guest_that_does_not_answer_leaves_it_paused(node: NodeHost) -> None:
    sandbox = node.boot()
    node.pause(sandbox)
    note = node.node_dir / "snapshots" / "hot" / node.sandbox(sandbox["id"])["snapshot"] / "node.json"  # type: ignore[index]
    right = note.read_text()
    note.write_text(json.dumps(json.loads(right) | {"guest_token": "wrong"}))
    answer = node.call("POST", f"/sandboxes/{sandbox['id']}/resume", timeout=120)
    assert answer.status == 500 and answer.json()["code"] == "thaw_failed", answer.body
    known = node.sandbox(sandbox["id"])
    assert known is not None and known["state"] == "paused"
    left = look(node.id, node.root)
    assert not any(sandbox["id"] in name for name in (*left.cgroups, *left.processes))
    note.write_text(right)
    assert node.exec(node.resume(sandbox), "echo alive").stdout == "alive\n"


@contextmanager
def little_room(directory: Path, beside: Path) -> Iterator[None]:
    """All that is new in a sandbox's directory has 4 MiB."""
    beside.mkdir()
    commands = [
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(beside)],
        ["mkdir", str(beside / "runtime")],
        ["mount", "--rbind", str(directory / "runtime"), str(beside / "runtime")],
        ["mount", "--rbind", str(beside), str(directory)],
    ]
    for command in commands:
        subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", directory], check=True)
        subprocess.run(["umount", "--recursive", beside], check=True)


def test_a_full_disk_leaves_the_sandbox_running(node: NodeHost) -> None:
    sandbox = node.boot()
    node.exec(sandbox, "head -c 20000000 /dev/urandom > /home/user/much")
    process = start_counter(node, sandbox)
    with little_room(node.node_dir / "sandboxes" / sandbox["id"], node.root / "full"):
        for verb in ("pause", "snapshots"):
            answer = node.call("POST", f"/sandboxes/{sandbox['id']}/{verb}", {"snapshot": new_id("snp")})
            assert answer.status == 507 and answer.json()["code"] == "disk_full", answer.body
            known = node.sandbox(sandbox["id"])
            assert known is not None and known["state"] == "running"
    assert node.snapshots() == []
    assert at_least(node, sandbox, process, 0, 3)
    assert node.resume(node.pause(sandbox))["state"] == "running"


def test_deletion_wins_over_pause_and_resume(node: NodeHost) -> None:
    for verb in ("pause", "resume"):
        sandbox = node.boot()
        if verb == "resume":
            node.pause(sandbox)
        body = {"snapshot": new_id("snp")} if verb == "pause" else None

        def change(sandbox: dict[str, Any] = sandbox, verb: str = verb, body: Any = body) -> int:
            return node.call("POST", f"/sandboxes/{sandbox['id']}/{verb}", body).status

        def delete(sandbox: dict[str, Any] = sandbox) -> int:
            time.sleep(0.05)
            return node.call("DELETE", f"/sandboxes/{sandbox['id']}").status

        changed, deleted = node.at_once(change, delete)
        assert deleted == 200 and changed in (200, 404, 409)
        assert node.sandbox(sandbox["id"]) is None
        assert node.snapshots(sandbox["id"]) == []
    left = look(node.id, node.root)
    assert not left.cgroups or not any("sbx_" in name for name in left.cgroups)


def ahead(node: NodeHost) -> set[str]:
    """Kernels that wait for a thaw, once there is one."""
    end = time.monotonic() + 60
    while not node.call("GET", "/health").json()["kernels_ahead"]:
        assert time.monotonic() < end, node.log()[-3000:]
        time.sleep(0.05)
    return {path.name for path in (node.node_dir / "sandboxes").iterdir() if is_id(path.name, "wrm")}


def member(node: NodeHost, sandbox: dict[str, Any]) -> str | None:
    """The kernel that was begun ahead and is this sandbox's now."""
    record = json.loads((node.node_dir / "sandboxes" / sandbox["id"] / "record.json").read_text())
    return record["member"]  # type: ignore[no-any-return]


def test_a_sandbox_comes_back_in_a_kernel_that_was_begun_ahead(node: NodeHost) -> None:
    sandbox = node.boot()
    process = start_counter(node, sandbox)
    node.pause(sandbox)
    waiting = ahead(node)
    sandbox = node.resume(sandbox)
    used = member(node, sandbox)
    assert used is not None and used in waiting
    said, offset = read_output(node, sandbox, process, 0)
    said, offset = at_least(node, sandbox, process, offset, 2)
    assert all(line.endswith(b" True") for line in said.splitlines())
    taken = node.snapshot(sandbox)["id"]
    waiting = ahead(node)
    fork = node.boot(from_snapshot=taken)
    assert member(node, fork) in waiting
    assert identity(node, fork)[0] == fork["id"].replace("_", "-") != identity(node, sandbox)[0]
    node.call("DELETE", f"/sandboxes/{fork['id']}")
    node.pause(sandbox)
    for name in ahead(node):  # one that has died, also where nobody has noticed yet, is in nobody's way
        pid = node.node_dir / "sandboxes" / name / "runtime" / "pid"
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)
    sandbox = node.resume(sandbox)
    at_least(node, sandbox, process, offset, 2)
    node.call("DELETE", f"/sandboxes/{sandbox['id']}")


def test_paused_sandboxes_survive_restarts_of_the_node(node: NodeHost) -> None:
    sandbox = node.boot()
    process = start_counter(node, sandbox)
    _, offset = at_least(node, sandbox, process, 0, 3)
    paused = node.pause(sandbox)
    for end in (node.kill, node.stop):
        end()
        node.start()
        known = node.sandbox(sandbox["id"])
        assert known is not None and (known["state"], known["snapshot"]) == ("paused", paused["snapshot"])
    resumed = node.resume(sandbox)
    assert at_least(node, resumed, process, offset, 3)


def test_an_image_stays_while_a_snapshot_stands_on_it(node: NodeHost) -> None:
    sandbox = node.boot()
    taken = node.snapshot(sandbox, name="kept")
    image = node.node_dir / "images" / f"{taken['runtime']['image']}.erofs"
    assert image.stat().st_nlink >= 1
    node.call("DELETE", f"/sandboxes/{sandbox['id']}")
    node.kill()
    node.start()
    assert image.exists()
    assert node.boot(from_snapshot=taken["id"])["state"] == "running"
