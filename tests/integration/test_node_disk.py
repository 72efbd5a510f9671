"""Disks apart from memory, in real sandboxes: what was written comes back, exactly; processes do not."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.node_host import NodeHost, boot_request

from hutch.model import new_id

pytestmark = [pytest.mark.root, pytest.mark.slow]

DISK = {"kind": "disk"}
TICKING = "while :; do echo >> /tmp/ticks; sleep 0.05; done"
TWO_TICKS = (
    "a=$(wc -l < /tmp/ticks); "
    "for i in $(seq 600); do b=$(wc -l < /tmp/ticks); [ $b -gt $a ] && break; sleep 0.1; done; echo $a $b"
)
"""How many ticks there were, and soon after."""

_MAKE = r"""
import os, subprocess
home = "/home/user/w"
os.makedirs(home)
os.chdir(home)
for n in range(3000):
    if n % 100 == 0:
        os.mkdir(f"d{n}")
    with open(f"d{n // 100 * 100}/f{n}", "wb") as file:
        file.write(os.urandom(n % 300))
with open("big", "wb") as file:
    for _ in range(10):
        file.write(os.urandom(1 << 20))
with open("sparse", "wb") as file:
    file.truncate(80 << 20)
    file.seek(40 << 20)
    file.write(b"in the middle")
with open(b"odd \n \xff\xfe name", "w") as file:
    file.write("odd")
os.link("big", "linked")
os.symlink("../w/big", "soft")
os.symlink("/nowhere", "dangling")
os.mkfifo("fifo", 0o620)
os.setxattr("big", "user.colour", b"\0blue")
os.setxattr("d0", "user.dir", b"x")
os.chown("big", 1000, 1001)
os.chmod("big", 0o640)
os.utime("big", ns=(1, 1234567890123456789))
with open("setuid", "w") as file:
    file.write("x")
os.link("setuid", "d300/setuid")
os.link("dangling", "d400/dangling", follow_symlinks=False)
os.lchown("dangling", 1000, 1000)
os.chown("setuid", 0, 0)
os.chmod("setuid", 0o4755)
os.chown("d100", 1000, 1000)
os.lchown("soft", 1000, 1000)
os.chmod("d200", 0o1777)
os.remove("/etc/motd")
subprocess.run(["rm", "-rf", "/usr/share/doc/bash", "/opt"], check=True)
os.mkdir("/opt")
open("/opt/new", "w").write("new")
os.rename("/etc/apt", "/etc/apt2")
os.mkdir("/etc/apt")
open("/etc/passwd", "a").write("other:x:1234:1234::/home/other:/bin/sh\n")
os.chmod("/etc/skel", 0o700)
"""

_SUM = r"""
import hashlib, os, stat, sys
sum, count = hashlib.sha256(), 0
inodes = {}
for top in ("/home", "/etc", "/opt", "/usr/share/doc", "/root", "/var", "/srv"):
    for base, directories, files in os.walk(os.fsencode(top)):
        directories.sort()
        for name in sorted(files + directories):
            path = os.path.join(base, name)
            if path in (b"/etc/hosts", b"/etc/hostname"):
                continue
            one = os.lstat(path)
            what = [path, one.st_mode, one.st_uid, one.st_gid]
            if not stat.S_ISDIR(one.st_mode):
                what += [one.st_size, one.st_mtime_ns, inodes.setdefault((one.st_dev, one.st_ino), path)]
            elif path.startswith(b"/home"):
                what += [one.st_mtime_ns]
            if stat.S_ISLNK(one.st_mode):
                what.append(os.readlink(path))
            elif not stat.S_ISFIFO(one.st_mode):
                what.append([(n, os.getxattr(path, n)) for n in sorted(os.listxattr(path)) if n.startswith("user.")])
            if stat.S_ISREG(one.st_mode):
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        sum.update(block)
            sum.update(repr(what).encode())
            count += 1
print(count, sum.hexdigest())
"""


@pytest.fixture
def host(shared_node: NodeHost) -> NodeHost:
    return shared_node


def _python(host: NodeHost, sandbox: dict[str, Any], program: str, **options: Any) -> str:
    ran = host.exec(sandbox, "python3 - <<'HUTCH'\n" + program + "\nHUTCH", 300, user="root", **options)
    assert ran.exit_code == 0, ran.stdout + ran.stderr
    return ran.stdout.strip()


def _hibernate(host: NodeHost, sandbox: dict[str, Any], snapshot: str | None = None) -> dict[str, Any]:
    return host.pause(sandbox, snapshot, kind="disk")


def _end(host: NodeHost, *sandboxes: dict[str, Any]) -> None:
    for sandbox in sandboxes:
        host.call("DELETE", f"/sandboxes/{sandbox['id']}")


@pytest.mark.timeout(400)
def test_five_cycles_lose_nothing_that_was_written(host: NodeHost) -> None:
    box = host.boot(resources={"disk_mib": 1024, "memory_mib": 1024}, env={"KEPT": "yes"})
    try:
        _python(host, box, _MAKE)
        expected = _python(host, box, _SUM)
        boots = {box["boot_id"]}
        for cycle in range(5):
            asleep = _hibernate(host, box)
            assert (asleep["state"], asleep["address"], asleep["memory_bytes"]) == ("hibernated", "", 0)
            box = host.resume(box)
            assert (box["state"], box["resumed_memory"]) == ("running", False)
            boots.add(box["boot_id"])
            if cycle in (0, 4):  # it takes a while
                assert _python(host, box, _SUM) == expected, f"cycle {cycle}"
        assert len(boots) == 6
        ran = host.exec(box, "echo $KEPT; id -un; pwd; hostname; cat /run/hutch/boot_id; du -k ~/w/sparse | cut -f1")
        kept, user, _, name, boot, _ = ran.stdout.splitlines()
        assert (kept, user, name, boot) == ("yes", "user", box["id"].replace("_", "-"), box["boot_id"])
        assert [e["data"]["memory"] for e in host.journal(box["id"], "sandbox_resumed")] == [False] * 5
    finally:
        _end(host, box)


def test_processes_are_gone_and_what_they_wrote_is_whole(host: NodeHost) -> None:
    box = host.boot()
    try:
        loop = "cd /tmp; for n in $(seq 100000); do printf %05d $n > now; mv now done$((n % 7)); done"
        host.start_process(box, loop)
        host.exec(box, "sleep 0.5; sleep 1000 & disown", user="user")
        _hibernate(host, box)
        box = host.resume(box)
        ran = host.exec(box, "cat /tmp/done* | wc -c; ls /tmp; pgrep sleep | wc -l")
        size, *_, sleeping = ran.stdout.split()
        assert int(size) == 5 * ran.stdout.count("done") and sleeping == "0"
    finally:
        _end(host, box)


def test_a_disk_is_forked_and_rolled_back_to(host: NodeHost) -> None:
    box = host.boot()
    fork: dict[str, Any] | None = None
    try:
        host.exec(box, "echo first > ~/f; (sleep 1000 &)")
        point = new_id("snp")
        _hibernate(host, box, point)
        assert host.call("GET", f"/snapshots/{point}").json()["kind"] == "disk"
        box = host.resume(box)
        fork = host.boot(from_snapshot=point, env={"WHO": "fork"})
        assert host.exec(fork, "cat ~/f; echo $WHO").stdout == "first\nfork\n"
        assert fork["boot_id"] != box["boot_id"]
        host.exec(box, "echo second > ~/f; rm -f /etc/motd")
        box = host.rollback(box, point)
        assert host.exec(box, "cat ~/f; ls /etc/motd").stdout == "first\n/etc/motd\n"
        assert box["resumed_memory"] is False
        safety = next(s["id"] for s in host.snapshots(box["id"]) if s["reason"] == "safety")
        box = host.rollback(box, safety)  # memory again
        assert host.exec(box, "cat ~/f").stdout == "second\n" and box["resumed_memory"] is True
    finally:
        _end(host, *(one for one in (box, fork) if one))


def _of_another_version(host: NodeHost, snapshot: str) -> None:
    path = host.node_dir / "snapshots/hot" / snapshot / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["origin"]["version"] = "release-20990101"
    path.write_text(json.dumps(manifest))


def test_memory_of_another_version_falls_back_to_the_disk_where_that_is_allowed(host: NodeHost) -> None:
    box, other = host.boot(env={"KEPT": "yes"}), host.boot()
    try:
        ticks = host.start_process(box, TICKING)
        host.exec(box, "sleep 0.3")
        with_disk = host.pause(box, disk=True)
        assert (with_disk["state"], host.call("GET", f"/snapshots/{with_disk['snapshot']}").json()["disk"]) == (
            "paused",
            True,
        )
        box = host.resume(box)  # its memory, and what was made to stand still goes on
        assert box["resumed_memory"] is True
        first, second = host.exec(box, TWO_TICKS).stdout.split()
        assert int(second) > int(first) and ticks

        asleep, without = host.pause(box, disk=True), host.pause(other)
        for one in (asleep, without):
            _of_another_version(host, one["snapshot"])
        refused = host.call("POST", f"/sandboxes/{box['id']}/resume", {})
        assert refused.status == 409 and "release-20990101" in refused.json()["detail"]
        assert "fallback: disk" in refused.json()["hint"]
        assert host.sandbox(box["id"])["state"] == "paused"  # type: ignore[index]
        hopeless = host.call("POST", f"/sandboxes/{other['id']}/resume", {"fallback": True})
        assert hopeless.status == 409 and "only where it fits" in hopeless.json()["hint"]

        back = host.call("POST", f"/sandboxes/{box['id']}/resume", {"fallback": True}, timeout=120)
        assert back.status == 200, back.body
        assert back.json()["resumed_memory"] is False and back.json()["boot_id"] != box["boot_id"]
        assert host.exec(back.json(), "echo $KEPT; pgrep -c sleep").stdout.split() == ["yes", "0"]
    finally:
        _end(host, box, other)


def test_forks_and_rollbacks_fall_back_to_the_disk_of_a_snapshot_of_a_running_sandbox(host: NodeHost) -> None:
    box = host.boot()
    made: list[dict[str, Any]] = []
    try:
        host.start_process(box, TICKING)
        host.exec(box, "echo then > ~/f")
        with_disk, without = host.snapshot(box, disk=True), host.snapshot(box)
        assert (with_disk["kind"], with_disk["disk"], without["disk"]) == ("full", True, False)
        box = host.sandbox(box["id"]) or {}
        first, second = host.exec(box, TWO_TICKS).stdout.split()
        assert int(second) > int(first), "nothing stands still any more"
        made.append(host.boot(from_snapshot=with_disk["id"], fallback=True))
        assert (made[0]["start"], made[0]["start_reason"]) == ("thaw", None)
        first, second = host.exec(made[0], TWO_TICKS).stdout.split()
        assert int(second) > int(first), "what stood still goes on in a fork"

        for snapshot in (with_disk, without):
            _of_another_version(host, snapshot["id"])
        refused = host.call("PUT", f"/sandboxes/{new_id('sbx')}", boot_request(from_snapshot=with_disk["id"])).json()
        assert refused["code"] == "snapshot_incompatible" and "with `fallback: disk`" in refused["hint"]
        wish = boot_request(from_snapshot=without["id"], fallback=True)
        refused = host.call("PUT", f"/sandboxes/{new_id('sbx')}", wish).json()
        assert "has no copy of its disk" in refused["detail"] and "snapshots with `fallback: disk`" in refused["hint"]
        made.append(host.boot(from_snapshot=with_disk["id"], fallback=True))
        assert made[1]["start"] == "boot" and "release-20990101" in made[1]["start_reason"]
        assert host.exec(made[1], "cat ~/f; pgrep -c sleep").stdout.split() == ["then", "0"]

        host.exec(box, "echo now > ~/f")
        wish = {"snapshot": with_disk["id"], "safety": new_id("snp")}
        refused = host.call("POST", f"/sandboxes/{box['id']}/rollback", wish, timeout=120).json()
        assert "it runs on as it was" in refused["detail"] and "with `fallback: disk`" in refused["hint"]
        box = host.rollback(host.sandbox(box["id"]) or {}, with_disk["id"], fallback=True)
        assert (box["state"], box["resumed_memory"]) == ("running", False)
        assert host.exec(box, "cat ~/f").stdout == "then\n"
        host.pause(box)
        refused = host.call("POST", f"/sandboxes/{box['id']}/snapshots", {"snapshot": new_id("snp"), "disk": True})
        assert refused.status == 409 and "no copy of its disk" in refused.json()["detail"]
    finally:
        _end(host, box, *made)


def test_a_hibernated_sandbox_is_paused_once_and_copied(host: NodeHost) -> None:
    box = host.boot()
    try:
        host.exec(box, "echo x > ~/f")
        first = _hibernate(host, box)
        assert host.pause(box)["snapshot"] == first["snapshot"]
        named = host.snapshot(box, name="kept")
        assert (named["kind"], named["name"]) == ("disk", "kept")
        host.kill()
        host.start()
        assert host.sandbox(box["id"])["state"] == "hibernated"  # type: ignore[index]
        box = host.resume(box)
        assert host.exec(box, "cat ~/f").stdout == "x\n"
    finally:
        _end(host, box)
        host.call("DELETE", f"/snapshots/{named['id']}")


def test_what_stands_still_for_a_pack_that_is_broken_off_goes_on(host: NodeHost) -> None:
    box = host.boot()
    try:
        host.start_process(box, TICKING)
        host.exec(box, "head -c 60000000 /dev/urandom > ~/big")
        connection = host.guest(box)
        connection.request("GET", "/hutch/changes/pack?still=1", headers={"X-Access-Token": box["guest_token"]})
        connection.getresponse().read(100)
        connection.close()
        first, second = host.exec(box, TWO_TICKS).stdout.split()
        assert int(second) > int(first)
    finally:
        _end(host, box)


@pytest.mark.parametrize("after", [0.15, 0.5, 0.9])
def test_a_node_that_is_killed_while_it_hibernates_one_loses_nothing(host: NodeHost, after: float) -> None:
    box = host.boot()
    try:
        host.exec(box, "head -c 80000000 /dev/urandom > ~/big; sha256sum ~/big > ~/sum")
        host.start_process(box, TICKING)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(host.call, "POST", f"/sandboxes/{box['id']}/pause", {"snapshot": new_id("snp")} | DISK)
            time.sleep(after)
            host.kill()
            asked.exception()
        host.start()
        found = host.sandbox(box["id"])
        assert found is not None and found["state"] in ("running", "hibernated")
        if found["state"] == "running":  # and nothing stands still any more
            first, second = host.exec(found, TWO_TICKS).stdout.split()
            assert int(second) > int(first)
        else:
            found = host.resume(box)
        assert host.exec(found, "sha256sum -c ~/sum").exit_code == 0
    finally:
        _end(host, box)


@pytest.mark.parametrize("when", ["while it is packed", "when it is packed"])
def test_a_node_that_is_killed_while_it_keeps_the_disk_of_one_that_runs_lets_it_go_on(
    host: NodeHost, when: str
) -> None:
    box = host.boot()
    try:
        host.exec(box, "head -c 80000000 /dev/urandom > ~/big")
        host.start_process(box, TICKING)
        wish = {"snapshot": new_id("snp"), "disk": True}
        apart = f"frozen-{wish['snapshot']}.apart" + (".disk" if when == "while it is packed" else "")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(host.call, "POST", f"/sandboxes/{box['id']}/snapshots", wish)
            until = time.monotonic() + 20
            while not list(host.node_dir.rglob(apart)) and time.monotonic() < until:
                time.sleep(0.005)
            assert time.monotonic() < until
            host.kill()
            asked.exception()
        host.start()
        found = host.sandbox(box["id"])
        assert found is not None and found["state"] == "running"
        first, second = host.exec(found, TWO_TICKS).stdout.split()
        assert int(second) > int(first), "it stands still"
        assert list(host.node_dir.rglob("frozen-*")) == []
    finally:
        _end(host, box)
