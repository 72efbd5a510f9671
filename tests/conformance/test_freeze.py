"""What every runtime that can freeze and thaw must do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from textwrap import dedent

import pytest

from hutch.errors import DiskFull, FreezeFailed, SnapshotCorrupt, SnapshotIncompatible, ThawFailed
from hutch.model import AllowAll
from hutch.network.base import Slot
from hutch.network.resetting import reset
from hutch.runtime.base import Handle, SandboxSpec
from hutch.runtime.kernel import Kernel
from hutch.runtime.runsc import Runsc
from tests.conformance.conftest import SMALL, Host
from tests.conformance.test_runtime import FILL, HEADROOM, HOG, MIB, assert_nothing_left, until

pytestmark = pytest.mark.root


async def thaw(host: Host, snapshot: Path, spec: SandboxSpec | None = None) -> Handle:
    return await host.runtime.thaw(spec or await host.spec(), snapshot)


@pytest.fixture
def full(root: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory with little room."""
    path = root / "full"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def nowhere(host: Host) -> Iterator[str]:
    """An address outside from which no answer comes."""
    link, peer, address = f"d{host.node}", f"e{host.node}", "203.0.113.7"
    subprocess.run(["ip", "link", "add", link, "type", "veth", "peer", "name", peer], check=True)
    try:
        for command in (
            f"link set {link} up",
            f"link set {peer} up",
            f"route add {address} dev {link}",
            f"neigh add {address} lladdr 02:00:00:00:00:01 dev {link}",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield address
    finally:
        subprocess.run(["ip", "link", "del", link], check=True)


REMEMBER = dedent("""
    import builtins, hashlib, threading, time
    builtins.count, builtins.random = 0, os.urandom(4 << 20)
    open("/home/user/file", "wb").write(random)
    os.unlink("/etc/motd") if os.path.exists("/etc/motd") else None
    """)

RECALL = dedent("""
    import builtins, hashlib
    builtins.count += 1
    with open("/home/user/file", "rb") as file: content = file.read()
    print(count, hashlib.sha256(random).hexdigest(), hashlib.sha256(content).hexdigest())
    builtins.random = os.urandom(4 << 20)
    open("/home/user/file", "wb").write(random)
    print(hashlib.sha256(random).hexdigest())
    """)


async def test_five_freezes_and_thaws_lose_nothing(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, REMEMBER)
    written = ""
    for cycle in range(1, 6):
        snapshot = host.root / f"snapshot-{cycle}"
        frozen = await host.put_away(handle, snapshot)
        assert frozen.path == snapshot and frozen.bytes > 4 * MIB and frozen.stopped_ms > 0
        assert not await host.runtime.alive(handle)
        assert await host.runtime.leftovers() == []
        assert list(handle.directory.iterdir()) == []
        handle = await thaw(host, snapshot)
        recalled, fresh = (await host.run(handle, RECALL)).splitlines()
        count, in_memory, in_file = recalled.split()
        assert int(count) == cycle
        assert in_memory == in_file
        assert written in ("", in_file)
        written = fresh


async def test_a_live_snapshot_leaves_the_sandbox_running_and_is_a_moment_of_it(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "import builtins; builtins.n = 1; open('/home/user/f', 'w').write('then')")
    frozen = await host.runtime.freeze(handle, host.root / "snapshot", keep_running=True)
    assert frozen.stopped_ms > 0
    assert await host.run(handle, "import builtins; print(n); builtins.n = 2") == "1"
    await host.run(handle, "open('/home/user/f', 'w').write('now')")
    other = await thaw(host, frozen.path)
    look = "print(n, open('/home/user/f').read())"
    assert await host.run(other, look) == "1 then"
    assert await host.run(handle, look) == "2 now"
    again = await host.runtime.freeze(handle, host.root / "again", keep_running=True)
    assert await host.run(await thaw(host, again.path), look) == "2 now"


SAY = dedent("""
    import builtins, socket, threading, time
    builtins.said = []
    def say():
        mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while True:
            said.append(time.time())
            mouth.sendto(str(len(said)).encode(), WHERE)
            time.sleep(0.0005)
    threading.Thread(target=say, daemon=True).start()
    """)


async def test_a_sandbox_that_is_not_kept_does_nothing_after_it_was_saved(host: Host) -> None:
    handle = await host.boot()
    subprocess.run(["nft", "insert", "rule", "inet", f"hutch_{host.node}", "deny_all", "accept"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("", 0))
        ear.setblocking(False)
        gateway = str(IPv4Address(host.addresses[handle.id]) - 1)
        await host.run(handle, SAY.replace("WHERE", repr((gateway, ear.getsockname()[1]))))
        await asyncio.sleep(0.1)
        await host.put_away(handle, host.root / "snapshot")
        end, heard = time.time(), 0
        with contextlib.suppress(BlockingIOError):
            while True:
                heard = int(ear.recv(64))
    thawed = await thaw(host, host.root / "snapshot")
    saved = int(await host.run(thawed, f"print(sum(when < {end} for when in said))"))
    assert 0 < heard <= saved  # all that it has ever said is in what was saved


async def test_four_forks_at_once_share_nothing_that_is_written(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "import builtins; builtins.n = 7; open('/home/user/f', 'wb').write(b'a' * (8 << 20))")
    await host.put_away(handle, host.root / "snapshot")
    before = {file.name: file.stat().st_mtime_ns for file in (host.root / "snapshot").iterdir()}
    forks = await asyncio.gather(*(thaw(host, host.root / "snapshot") for _ in range(4)))
    assert len({fork.pid for fork in forks}) == 4
    write = "import builtins; builtins.n += N; f = open('/home/user/f', 'r+b'); f.write(b'%d' % n * 4096); f.close()"
    await asyncio.gather(*(host.run(fork, write.replace("N", str(n))) for n, fork in enumerate(forks)))
    look = "f = open('/home/user/f', 'rb').read(); print(n, len(f), f.count(b'%d' % n), f.count(b'a'))"
    for n, fork in enumerate(forks):
        told, length, own, old = (await host.run(fork, look)).split()
        digits = 4096 * len(told)
        assert (int(told), int(length), int(own), int(old)) == (7 + n, 8 * MIB, 4096, 8 * MIB - digits)
    assert {file.name: file.stat().st_mtime_ns for file in (host.root / "snapshot").iterdir()} == before


async def test_the_image_may_have_moved_and_the_slot_differs(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    await host.put_away(handle, host.root / "snapshot")
    moved = host.root / "moved.erofs"
    moved.write_bytes(host.image.read_bytes())
    spec = replace(await host.spec(), image=moved)
    thawed = await thaw(host, host.root / "snapshot", spec)
    said = await host.run(
        thawed,
        dedent("""
        import socket
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("169.254.169.253", 80))
        print(s.getsockname()[0], len(open("/.hutch/app/run").read()) > 100)
        """),
    )
    assert said == f"{spec.slot.guest_address} True"


async def test_a_thawed_sandbox_has_no_rights_on_the_host_either(host: Host) -> None:
    handle = await host.boot()
    await host.put_away(handle, host.root / "snapshot")
    thawed = await thaw(host, host.root / "snapshot")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{thawed.pid}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == 0
    assert "0" not in status["Uid"].split()
    for kind in ("user", "mnt", "ipc", "uts", "net"):
        assert os.readlink(f"/proc/{thawed.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    assert os.getsid(thawed.pid) != os.getsid(0)


async def test_the_disk_ceiling_holds_after_a_thaw(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "open('/home/user/kept', 'wb').write(b'k' * (32 << 20))")
    await host.put_away(handle, host.root / "snapshot")
    thawed = await thaw(host, host.root / "snapshot")
    disk = (await host.runtime.stats(thawed)).disk_bytes
    assert 32 * MIB <= disk < 44 * MIB  # it has its written files, and the file they lie in is sparse still
    ceiling = SMALL.disk_mib
    assert await host.run(thawed, "s = os.statvfs('/'); print(s.f_blocks * s.f_frsize >> 20)") == str(ceiling)
    errno, written = (await host.run(thawed, FILL)).split()
    assert int(errno) == 28
    assert (ceiling - 32) * 0.9 <= int(written) <= ceiling - 32
    assert (await host.runtime.stats(thawed)).disk_bytes <= (ceiling + 8) * MIB
    await host.run(thawed, "os.unlink('/home/user/big'); os.unlink('/home/user/kept')")

    async def given_back() -> bool:
        return (await host.runtime.stats(thawed)).disk_bytes < 8 * MIB

    await until(given_back)


async def test_the_memory_limit_holds_after_a_thaw(host: Host) -> None:
    resources = SMALL.model_copy(update={"memory_mib": 128})
    handle = await host.boot(resources)
    await host.run(handle, "import builtins; builtins.kept = os.urandom(32 << 20)")
    before = await host.runtime.stats(handle)
    await host.put_away(handle, host.root / "snapshot")
    thawed = await thaw(host, host.root / "snapshot", await host.spec(resources))
    await host.run(thawed, "pass")
    after = await host.runtime.stats(thawed)
    assert abs(after.memory_bytes - before.memory_bytes) < 24 * MIB
    assert host.runtime.memory_ceiling(thawed) >= after.memory_bytes - MIB
    hog = asyncio.create_task(host.run(thawed, HOG, timeout=60))
    highest = 0
    while not hog.done():
        highest = max(highest, (await host.runtime.stats(thawed)).memory_bytes)
        await asyncio.sleep(0.01)
        if not await host.runtime.alive(thawed):
            hog.cancel()
    await asyncio.gather(hog, return_exceptions=True)
    assert 100 * MIB < highest <= 128 * MIB + HEADROOM
    assert (await host.runtime.stats(thawed)).oom_kills > 0


async def test_a_sandbox_at_its_memory_limit_can_be_frozen_and_thawed(host: Host) -> None:
    handle = await host.boot()
    filled = SMALL.memory_mib - 40
    await host.run(handle, f"import builtins; builtins.kept = os.urandom(1 << 20) * {filled}", timeout=60)
    await host.runtime.freeze(handle, host.root / "live", keep_running=True)
    assert await host.run(handle, "print(len(kept) >> 20)") == str(filled)
    frozen = await host.put_away(handle, host.root / "snapshot")
    assert frozen.bytes > filled * MIB
    thawed = await thaw(host, frozen.path)
    assert await host.run(thawed, "print(len(kept) >> 20, kept[:1 << 20] == kept[-1 << 20:])") == f"{filled} True"
    assert (await host.runtime.stats(thawed)).oom_kills == 0


@pytest.mark.slow
async def test_more_written_files_than_memory_survive_and_are_not_memory(host: Host) -> None:
    resources = SMALL.model_copy(update={"disk_mib": 1024, "memory_mib": 128})
    handle = await host.boot(resources)
    await host.run(
        handle,
        dedent("""
        import builtins, hashlib
        digest = hashlib.sha256()
        with open("/home/user/big", "wb") as file:
            for _ in range(400):
                block = os.urandom(1 << 20); digest.update(block); file.write(block)
        builtins.digest = digest.hexdigest()
        with open("/home/user/holes", "wb") as file: file.truncate(512 << 20)
        """),
        timeout=60,
    )
    before = await host.runtime.stats(handle)
    frozen = await host.put_away(handle, host.root / "snapshot")
    assert 400 * MIB < frozen.bytes < 450 * MIB
    thawed = await thaw(host, frozen.path, await host.spec(resources))
    check = "import hashlib; print(hashlib.file_digest(open('/home/user/big', 'rb'), 'sha256').hexdigest() == digest)"
    assert await host.run(thawed, check, timeout=60) == "True"
    after = await host.runtime.stats(thawed)
    assert after.memory_bytes - before.memory_bytes < 32 * MIB
    assert 400 * MIB <= after.disk_bytes < 450 * MIB
    assert after.oom_kills == 0


async def test_cpu_is_held_to_the_quota_after_a_thaw(host: Host) -> None:
    handle = await host.boot()
    await host.put_away(handle, host.root / "snapshot")
    thawed = await thaw(host, host.root / "snapshot")
    await host.runtime.limit_cpus(thawed, 0.25)
    await host.run(thawed, "pass")
    start, before = time.monotonic(), await host.runtime.stats(thawed)
    await host.run(thawed, "import time; end = time.time() + 2\nwhile time.time() < end: pass")
    used = (await host.runtime.stats(thawed)).cpu_seconds - before.cpu_seconds
    assert used / (time.monotonic() - start) < 0.4


@pytest.mark.parametrize(
    ("full", "keep_running"),
    [("4m", False), ("4m", True), ("256k", False)],  # in the middle of its memory, and of the kernel's state
    indirect=["full"],
)
async def test_a_freeze_onto_a_full_disk_leaves_the_sandbox_running(host: Host, full: Path, keep_running: bool) -> None:
    handle = await host.boot()
    await host.run(handle, "import builtins; builtins.kept = os.urandom(16 << 20)")
    for _ in range(2):
        with pytest.raises(DiskFull, match="no room for a snapshot"):
            await host.runtime.freeze(handle, full / "snapshot", keep_running)
        assert list(full.iterdir()) == []
        assert await host.run(handle, "print(len(kept) >> 20)") == "16"
    frozen = await host.runtime.freeze(handle, host.root / "snapshot", keep_running)
    assert await host.run(await thaw(host, frozen.path), "print(len(kept) >> 20)") == "16"


async def test_a_snapshot_is_never_written_over(host: Host) -> None:
    handle = await host.boot()
    (host.root / "snapshot").mkdir()
    with pytest.raises(FreezeFailed, match="already"):
        await host.put_away(handle, host.root / "snapshot")
    assert await host.run(handle, "print(1)") == "1"


async def test_only_one_freeze_at_a_time(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    freezes = (host.runtime.freeze(handle, host.root / f"s{n}", keep_running=True) for n in range(2))
    results = await asyncio.gather(*freezes, return_exceptions=True)
    assert sum(isinstance(result, FreezeFailed) for result in results) == 1
    assert await host.run(handle, "print(1)") == "1"


async def test_a_dead_sandbox_cannot_be_frozen(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "os._exit(0)")
    with pytest.raises(FreezeFailed):
        await host.runtime.freeze(handle, host.root / "snapshot", keep_running=True)
    assert not (host.root / "snapshot").exists()
    await host.runtime.kill(handle.id, handle.directory)
    with pytest.raises(FreezeFailed):
        await host.runtime.freeze(handle, host.root / "snapshot", keep_running=True)
    assert sorted(path.name for path in host.root.iterdir()) == sorted([handle.id, "state"])


@pytest.mark.parametrize("part", ["version", "runtime", "cpu", "image", "disk", "pids"])
async def test_a_snapshot_of_something_else_is_refused_and_both_are_named(host: Host, part: str) -> None:
    handle = await host.boot()
    await host.put_away(handle, host.root / "snapshot")
    file = host.root / "snapshot" / "manifest.json"
    said = json.loads(file.read_text())
    spec = await host.spec()
    theirs, ours = "other-thing", ""
    if part in ("version", "runtime"):
        ours, said["origin"][part] = said["origin"][part], theirs
    elif part == "cpu":
        ours = said["cpu"]["model"]
        said["cpu"] |= {"model": theirs, "flags": [*said["cpu"]["flags"], "avx1024"]}
    elif part == "image":
        theirs, ours = said["origin"]["image"]["path"], str(host.root / "other.erofs")
        (host.root / "other.erofs").write_bytes(b"another" * 1000)
        spec = replace(spec, image=host.root / "other.erofs")
    else:
        name, theirs, ours = {"disk": ("disk_mib", "128", "99"), "pids": ("pids", "64", "99")}[part]
        spec = replace(spec, resources=SMALL.model_copy(update={name: 99}))
    file.write_text(json.dumps(said))
    with pytest.raises(SnapshotIncompatible) as caught:
        await thaw(host, host.root / "snapshot", spec)
    assert theirs in caught.value.detail and ours in caught.value.detail
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("damage", ["gone", "short", "no manifest", "garbage"])
async def test_a_damaged_snapshot_is_refused(host: Host, damage: str) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    biggest = max(snapshot.iterdir(), key=lambda file: file.stat().st_size)
    if damage == "gone":
        biggest.unlink()
    elif damage == "short":
        os.truncate(biggest, biggest.stat().st_size - 1)
    elif damage == "no manifest":
        (snapshot / "manifest.json").unlink()
    else:
        (snapshot / "manifest.json").write_text("{")
    spec = await host.spec()
    with pytest.raises(SnapshotCorrupt, match="snapshot"):
        await thaw(host, snapshot, spec)
    await assert_nothing_left(host, spec)


async def test_a_thaw_of_rubbish_fails_and_leaves_nothing(host: Host) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    for file in snapshot.iterdir():
        if file.suffix != ".json":
            file.write_bytes(os.urandom(4096) * (file.stat().st_size // 4096) + b"x" * (file.stat().st_size % 4096))
    spec = await host.spec()
    with pytest.raises(ThawFailed, match=spec.id):
        await thaw(host, snapshot, spec)
    await assert_nothing_left(host, spec)


async def test_a_thaw_that_fails_says_why_and_leaves_nothing(host: Host) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    spec = await host.spec()
    nowhere = Slot(0, "hutch-none", "none", "10.0.0.1", "10.0.0.2", 30)
    with pytest.raises(ThawFailed, match="hutch-none"):
        await thaw(host, snapshot, replace(spec, slot=nowhere))
    await assert_nothing_left(host, spec)
    with pytest.raises(ThawFailed, match=r"no\.erofs"):
        await thaw(host, snapshot, replace(spec, image=host.root / "no.erofs"))
    await assert_nothing_left(host, spec)
    assert await host.run(await thaw(host, snapshot, spec), "print(1)") == "1"


async def test_adopt_and_kill_work_on_a_thawed_sandbox(host: Host) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    spec = await host.spec()
    thawed = await thaw(host, snapshot, spec)
    later = host.fresh()
    assert await later.leftovers() == [thawed.id]
    adopted = await later.adopt(thawed.id, thawed.directory)
    assert adopted == thawed and await later.alive(thawed)
    assert (await later.stats(thawed)).memory_bytes > 0
    again = await later.freeze(thawed, host.root / "again", keep_running=True)
    assert await host.run(await thaw(host, again.path), "print(1)") == "1"
    await asyncio.gather(*(later.kill(thawed.id, thawed.directory) for _ in range(2)))
    assert not await host.runtime.alive(thawed)
    assert await later.adopt(thawed.id, thawed.directory) is None
    assert thawed.id not in await later.leftovers()


@pytest.mark.parametrize("after", [0, 0.03, 0.06, 0.1, 0.15, 0.2])
async def test_kill_wins_over_a_freeze_and_over_a_thaw(host: Host, after: float) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    snapshot = (await host.runtime.freeze(handle, host.root / "live", keep_running=True)).path
    spec = await host.spec()
    freeze = asyncio.create_task(host.put_away(handle, host.root / "snapshot"))
    thawing = asyncio.create_task(thaw(host, snapshot, spec))
    await asyncio.sleep(after)
    await asyncio.gather(host.runtime.kill(handle.id, handle.directory), host.runtime.kill(spec.id, spec.directory))
    frozen, thawed = await asyncio.gather(freeze, thawing, return_exceptions=True)
    assert isinstance(thawed, Handle | ThawFailed)
    assert isinstance(frozen, FreezeFailed) != (host.root / "snapshot").exists()
    assert not list(host.root.glob(".*"))
    await host.runtime.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)
    assert list(handle.directory.iterdir()) == []


@pytest.mark.parametrize("after", [0, 0.05, 0.15])
async def test_a_cancelled_thaw_leaves_nothing(host: Host, after: float) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    spec = await host.spec()
    thawing = asyncio.create_task(thaw(host, snapshot, spec))
    await asyncio.sleep(after)
    thawing.cancel()
    await asyncio.gather(thawing, return_exceptions=True)
    await host.runtime.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


async def test_a_freeze_whose_caller_is_cancelled_goes_to_its_end(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    freeze = asyncio.create_task(host.runtime.freeze(handle, host.root / "snapshot", keep_running=True))
    await asyncio.sleep(0.05)
    freeze.cancel()
    await asyncio.gather(freeze, return_exceptions=True)
    await until((host.root / "snapshot").exists)
    assert await host.run(handle, "print(1)") == "1"
    assert await host.run(await thaw(host, host.root / "snapshot"), "print(1)") == "1"


IN_ANOTHER_DAEMON = """
import asyncio, pickle, sys
from tests.conformance.conftest import RUNTIMES
state, node, name, call = pickle.load(sys.stdin.buffer)
runtime = RUNTIMES[name](state, node)
print("begun", flush=True)
asyncio.run(getattr(runtime, call[0])(*call[1:]))
print("done", flush=True)
sys.stdin.read()
"""


async def kill_a_daemon_in_the_middle(host: Host, after: float, *call: object) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", IN_ANOTHER_DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with daemon:
        assert daemon.stdin and daemon.stdout
        daemon.stdin.write(pickle.dumps((host.root / "state", host.node, host.runtime.name, call)))
        daemon.stdin.flush()
        assert await asyncio.to_thread(daemon.stdout.readline) == b"begun\n"
        await asyncio.sleep(after)
        daemon.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("keep_running", [False, True])
@pytest.mark.parametrize("after", [0.01, 0.05, 0.08, 0.12, 0.2, 0.3])
async def test_a_daemon_killed_in_the_middle_of_a_freeze_costs_nothing(
    host: Host, after: float, keep_running: bool
) -> None:
    handle = await host.boot()
    await host.run(handle, "import builtins; builtins.n = 5")
    snapshot = host.root / "snapshot"
    await kill_a_daemon_in_the_middle(host, after, "freeze", handle, snapshot, keep_running)
    later = host.fresh()
    adopted = await later.adopt(handle.id, handle.directory)
    assert snapshot.exists() or adopted is not None
    assert not list(host.root.glob(".*"))
    if adopted is not None and (keep_running or not snapshot.exists()):  # else it may be dying already
        assert await host.run(adopted, "print(n)") == "5"
        assert await host.run(await thaw(host, (await later.freeze(adopted, host.root / "s2", True)).path), "print(n)")
    await later.kill(handle.id, handle.directory)
    assert list(handle.directory.iterdir()) == []
    assert handle.id not in await later.leftovers()
    if snapshot.exists():
        assert await host.run(await thaw(host, snapshot), "print(n)") == "5"


@pytest.mark.parametrize("after", [0.05, 0.1])
async def test_kill_sweeps_what_a_killed_daemon_has_half_frozen(host: Host, after: float) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    await kill_a_daemon_in_the_middle(host, after, "freeze", handle, host.root / "snapshot", False)
    await host.fresh().kill(handle.id, handle.directory)
    await asyncio.sleep(0.3)  # what the killed daemon has started may still be at it
    assert not list(host.root.glob(".*"))
    assert list(handle.directory.iterdir()) == []
    assert await host.fresh().leftovers() == []


@pytest.mark.parametrize("after", [0.03, 0.08, 0.15, 0.25])
async def test_a_daemon_killed_in_the_middle_of_a_thaw_leaves_nothing_that_kill_does_not_end(
    host: Host, after: float
) -> None:
    handle = await host.boot()
    snapshot = (await host.put_away(handle, host.root / "snapshot")).path
    spec = await host.spec()
    await kill_a_daemon_in_the_middle(host, after, "thaw", spec, snapshot)
    later = host.fresh()
    adopted = await later.adopt(spec.id, spec.directory)
    assert adopted is None or await host.run(adopted, "print(1)") == "1"
    await later.kill(spec.id, spec.directory)
    await asyncio.sleep(0.3)
    await later.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


LIVING = dedent("""
    import builtins, fcntl, pty, select, subprocess, threading, time
    builtins.python = ["/.hutch/lib/ld-linux-x86-64.so.2", "--library-path", "/.hutch/lib", "/.hutch/bin/python3"]
    echo = "import sys\\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)"
    builtins.piped = subprocess.Popen([*python, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    builtins.master, slave = pty.openpty()
    builtins.typed = subprocess.Popen([*python, "-c", echo], stdin=slave, stdout=slave, start_new_session=True)
    def ask(message):
        piped.stdin.write(message + b"\\n"); piped.stdin.flush()
        os.write(master, message + b"\\n")
        said = b""
        while message[::-1] not in said: said += os.read(master, 100)
        return piped.stdout.readline().strip().decode(), True
    builtins.ask = ask
    builtins.slept = []
    def sleeper():
        start, wall = time.monotonic(), time.time()
        time.sleep(1.5)
        slept.append((time.monotonic() - start, time.time() - wall))
    threading.Thread(target=sleeper, daemon=True).start()
    print(ask(b"abc"))
    """)


async def test_processes_pipes_terminals_and_timers_go_on_and_the_clock_is_right(host: Host) -> None:
    handle = await host.boot()
    assert await host.run(handle, LIVING) == "('cba', True)"
    await host.put_away(handle, host.root / "snapshot")
    await asyncio.sleep(2)
    thawed = await thaw(host, host.root / "snapshot")
    assert await host.run(thawed, "print(ask(b'xyz'))") == "('zyx', True)"
    before, inside = time.time(), float(await host.run(thawed, "import time; print(time.time())"))
    assert before - 0.1 < inside < time.time() + 0.1
    # Time has gone on while it was frozen, by both clocks: what was due goes off at once.
    slept, passed = (await host.run(thawed, "print(*slept[0])")).split()
    assert 2.0 < float(slept) < 20
    assert abs(float(passed) - float(slept)) < 0.2


SOCKETS = dedent("""
    import builtins, select, socket, threading
    b = builtins
    b.seen = []
    b.own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); own.connect(("169.254.169.253", 53))
    b.me = own.getsockname()[0]
    b.bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); bound.bind((me, 7777))
    b.listener = socket.create_server((me, 7778))
    b.near = socket.create_server(("127.0.0.1", 0))
    b.client = socket.create_connection(near.getsockname()); b.served = near.accept()[0]
    b.accepting = socket.create_server(("0.0.0.0", 7779))
    b.first, b.second, b.idle = (accepting.accept()[0] for _ in range(3))
    def reader():
        try: seen.append(first.recv(1))
        except OSError as error: seen.append(error.errno)
    def poller():
        poll = select.poll(); poll.register(second, select.POLLIN); poll.poll()
        try: seen.append(second.recv(1))
        except OSError as error: seen.append(error.errno)
    for work in (reader, poller): threading.Thread(target=work, daemon=True).start()
    """)

SOCKETS_AFTER = dedent("""
    import socket, time
    time.sleep(0.2)
    client.sendall(b"hi"); print(served.recv(5), seen)
    try: idle.recv(1)
    except OSError as error: print(error.errno)
    socket.create_connection(accepting.getsockname())
    print("new", own.getsockname()[0] == me)
    """)


async def test_connections_to_outside_are_reset_on_both_ends_and_no_socket_keeps_a_thaw_from_working(
    host: Host,
) -> None:
    handle = await host.boot()
    setup = asyncio.create_task(host.run(handle, SOCKETS))
    connections = []
    while len(connections) < 4:  # the fourth is never accepted
        try:
            connections.append(await asyncio.open_connection(host.addresses[handle.id], 7779))
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    await setup
    await host.runtime.freeze(handle, host.root / "live", keep_running=True)
    expected = ["b'hi' [103, 103]", "103", "new True"]
    assert (await host.run(handle, SOCKETS_AFTER)).splitlines() == expected
    for reader, writer in connections:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5)
        writer.close()
    first = await thaw(host, host.root / "live")
    assert (await host.run(first, SOCKETS_AFTER)).splitlines() == expected
    # The next thaw meets sockets of both earlier addresses.
    await host.run(first, "import builtins, socket; builtins.u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    await host.run(first, "u.connect(('169.254.169.253', 53))")
    await host.put_away(first, host.root / "snapshot")
    second = await thaw(host, host.root / "snapshot")
    assert await host.run(second, "print(u.getsockname()[0])") == host.addresses[first.id]


LOOP = dedent("""
    import asyncio, builtins, threading
    builtins.turns = 0
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
    async def main():
        loop = asyncio.get_running_loop()
        select = loop._selector.select
        def counted(timeout=None):
            builtins.turns += 1
            return select(timeout)
        loop._selector.select = counted
        for port in (7801, 7802):
            await asyncio.start_server(serve, "0.0.0.0", port)
        await asyncio.sleep(1000)
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    """)


@pytest.mark.parametrize("keep_running", [False, True])
async def test_event_loops_with_open_connections_go_on(host: Host, keep_running: bool) -> None:
    async def shout(handle: Handle, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(host.addresses[handle.id], port)
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"HELLO\n"
        return reader, writer

    handle = await host.boot()
    await host.run(handle, LOOP + "time = __import__('time'); time.sleep(0.5)")
    for cycle in range(2):
        kept = [await shout(handle, port) for port in (7801, 7802, 7801)]
        frozen = await host.runtime.freeze(handle, host.root / f"snapshot-{cycle}", keep_running)
        for _, writer in kept:
            writer.close()
        thawed = await thaw(host, frozen.path)
        for each in [handle, thawed] if keep_running else [thawed]:
            for port in (7801, 7802):
                (await shout(each, port))[1].close()
            turned = "import time; before = turns; time.sleep(1); print(turns - before)"
            assert int(await host.run(each, turned)) < 20
        handle = thawed


def kernel_of(host: Host, handle: Handle) -> Kernel:
    return Kernel(Runsc("runsc", host.root / "state", "systrap").control(handle.id))


async def test_the_sandboxs_kernel_says_whether_it_stands_still(host: Host) -> None:
    """What a daemon relies on that finds a freeze of one that was killed: to let go on what runs would be its end."""
    handle = await host.boot()
    await host.run(handle, "pass")
    kernel = kernel_of(host, handle)
    with open(host.root / "held", "w") as held:
        for _ in range(20):
            assert not await kernel.paused()
            await kernel.pause(held.fileno())
            await until(kernel.paused)
            await kernel.resume(held.fileno())
            assert not await kernel.paused()
    assert await host.run(handle, "print(1)") == "1"


async def test_the_sandboxs_kernel_says_how_many_connections_it_holds(host: Host) -> None:
    """What a freeze relies on: the host's kernel knows of an end before the sandbox's does."""
    handle = await host.boot()

    async def held(handle: Handle, count: int) -> None:
        async def so_many() -> bool:
            found = await kernel_of(host, handle).connections()
            return found is not None and found.established == count

        await until(so_many)

    await host.run(handle, LOOP + "time = __import__('time'); time.sleep(0.5)")
    await held(handle, 0)
    _, writer = await asyncio.open_connection(host.addresses[handle.id], 7801)
    await held(handle, 1)
    await host.run(handle, "import builtins, socket; builtins.inner = socket.create_connection(('127.0.0.1', 7801))")
    await held(handle, 3)
    reset(writer.transport)
    await held(handle, 2)
    _, writer = await asyncio.open_connection(host.addresses[handle.id], 7801)
    await host.put_away(handle, host.root / "snapshot")
    writer.close()
    thawed = await thaw(host, host.root / "snapshot")
    await held(thawed, 2)  # what goes over its loopback is its own, and lives on


async def test_a_connection_that_is_just_being_opened_does_not_keep_it_from_being_frozen(
    host: Host, nowhere: str
) -> None:
    handle = await host.boot()
    slot = next(slot for slot in map(host.slots.slot, range(64)) if slot.guest_address == host.addresses[handle.id])
    await host.slots.set_policy(slot, AllowAll())
    await host.run(
        handle,
        dedent("""
        import builtins, socket
        builtins.opening = []
        for port in range(80, 83):
            s = socket.socket(); s.setblocking(False); s.connect_ex((WHERE, port)); opening.append(s)
        """).replace("WHERE", repr(nowhere)),
    )
    await host.put_away(handle, host.root / "snapshot")
    thawed = await thaw(host, host.root / "snapshot")
    assert await host.run(thawed, "print([s.getsockopt(1, 4) for s in opening])") == "[111, 111, 111]"
