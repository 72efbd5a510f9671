"""What every runtime must do. A new runtime is done when this passes; see `RUNTIMES` in conftest.py."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from hutch.errors import BootFailed
from hutch.network.base import Slot
from hutch.runtime.base import Handle, SandboxSpec
from tests.conformance.conftest import SMALL, Host

pytestmark = pytest.mark.root

MIB = 1 << 20
HEADROOM = 128 * MIB
"""What a runtime may add to the guest's memory for its own kernel."""


async def until(condition: Callable[[], object], timeout: float = 10) -> None:
    """Wait until it holds; `condition` may be a coroutine function."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, "did not come true in time"
        await asyncio.sleep(0.02)


async def assert_nothing_left(host: Host, spec: SandboxSpec) -> None:
    assert await host.fresh().leftovers() == []
    assert not any(spec.directory.iterdir()) if spec.directory.exists() else True
    assert await host.fresh().adopt(spec.id, spec.directory) is None


async def test_check_finds_that_it_works_here(host: Host) -> None:
    assert await host.runtime.check() == []


async def test_boot_runs_pid_1_with_what_the_spec_says(host: Host) -> None:
    handle = await host.boot()
    said = await host.run(handle, "print(os.getpid(), os.uname().nodename, os.environ['HELLO'])")
    assert said == "1 box from the host"
    assert await host.runtime.alive(handle)
    assert await host.runtime.leftovers() == [handle.id]


async def test_the_guest_is_told_its_own_memory_and_not_the_hosts(host: Host) -> None:
    handle = await host.boot()
    said = await host.run(handle, "print(open('/proc/meminfo').readline().split()[1])")
    assert int(said) == SMALL.memory_mib * 1024


async def test_the_kernel_of_a_sandbox_has_no_rights_on_the_host(host: Host) -> None:
    handle = await host.boot()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{handle.pid}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == 0
    assert "0" not in status["Uid"].split()
    for kind in ("user", "mnt", "ipc", "uts", "net"):
        assert os.readlink(f"/proc/{handle.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


async def test_a_sandbox_is_no_part_of_the_daemons_session(host: Host) -> None:
    handle = await host.boot()
    assert os.getsid(handle.pid) != os.getsid(0)


async def test_a_fresh_runtime_adopts_and_kills(host: Host) -> None:
    handle = await host.boot()
    later = host.fresh()
    adopted = await later.adopt(handle.id, handle.directory)
    assert adopted == handle
    assert await later.alive(adopted)
    assert (await later.stats(adopted)).memory_bytes > 0
    await later.kill(adopted.id, adopted.directory)
    assert not await host.runtime.alive(handle)
    assert await later.adopt(handle.id, handle.directory) is None
    assert await later.leftovers() == []


async def test_kill_twice_and_kill_of_nothing_do_no_harm(host: Host) -> None:
    spec = await host.spec()
    await host.runtime.kill(spec.id, spec.directory)
    handle = await host.runtime.boot(spec)
    await asyncio.gather(*(host.runtime.kill(handle.id, handle.directory) for _ in range(2)))
    await host.runtime.kill(handle.id, handle.directory)
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("after", [0, 0.03, 0.06, 0.1, 0.15])
async def test_kill_wins_over_a_boot_that_is_running(host: Host, after: float) -> None:
    spec = await host.spec()
    boot = asyncio.create_task(host.runtime.boot(spec))
    await asyncio.sleep(after)
    await host.runtime.kill(spec.id, spec.directory)
    (result,) = await asyncio.gather(boot, return_exceptions=True)
    assert isinstance(result, Handle | BootFailed)
    await host.runtime.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("after", [0, 0.05, 0.15])
async def test_a_cancelled_boot_leaves_nothing(host: Host, after: float) -> None:
    spec = await host.spec()
    boot = asyncio.create_task(host.runtime.boot(spec))
    await asyncio.sleep(after)
    boot.cancel()
    await asyncio.gather(boot, return_exceptions=True)
    await host.runtime.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


BOOT_IN_ANOTHER_DAEMON = """
import asyncio, pickle, sys
from pathlib import Path
from tests.conformance.conftest import RUNTIMES
state, node, name, spec = pickle.load(sys.stdin.buffer)
print("booting", flush=True)
asyncio.run(RUNTIMES[name](state, node).boot(spec))
print("booted", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("after", [0.03, 0.1, 0.18, 0.3])
async def test_a_daemon_killed_in_the_middle_of_a_boot_leaves_nothing_that_kill_does_not_end(
    host: Host, after: float
) -> None:
    spec = await host.spec()
    daemon = subprocess.Popen(
        [sys.executable, "-c", BOOT_IN_ANOTHER_DAEMON],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with daemon:
        assert daemon.stdin and daemon.stdout
        daemon.stdin.write(pickle.dumps((host.root / "state", host.node, host.runtime.name, spec)))
        daemon.stdin.flush()
        assert await asyncio.to_thread(daemon.stdout.readline) == b"booting\n"
        await asyncio.sleep(after)
        daemon.send_signal(signal.SIGKILL)
    later = host.fresh()
    handle = await later.adopt(spec.id, spec.directory)
    assert handle is None or await host.run(handle, "print(1)") == "1"
    await later.kill(spec.id, spec.directory)
    await asyncio.sleep(0.3)  # a straggler of the boot, were there one, would show now
    await later.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


async def test_the_same_id_boots_only_once(host: Host) -> None:
    spec = await host.spec()
    handle = await host.runtime.boot(spec)
    with pytest.raises(BootFailed, match="already"):
        await host.runtime.boot(spec)
    assert await host.runtime.alive(handle)


@pytest.mark.parametrize("missing", ["image", "namespace"])
async def test_a_boot_that_fails_says_why_and_leaves_nothing(host: Host, missing: str) -> None:
    spec = await host.spec()
    nowhere = Slot(0, "hutch-none", "none", "10.0.0.1", "10.0.0.2", 30)
    broken = replace(spec, image=host.root / "no.erofs") if missing == "image" else replace(spec, slot=nowhere)
    with pytest.raises(BootFailed, match=r"no\.erofs" if missing == "image" else "hutch-none"):
        await host.runtime.boot(broken)
    await assert_nothing_left(host, spec)


async def test_a_sandbox_whose_pid_1_ends_is_dead_and_still_has_figures(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "sum(range(3_000_000))")
    await host.run(handle, "os._exit(3)")

    async def dead() -> bool:
        return not await host.runtime.alive(handle)

    await until(dead)
    assert (await host.runtime.stats(handle)).cpu_seconds > 0.1
    await host.runtime.kill(handle.id, handle.directory)
    assert await host.runtime.leftovers() == []


async def test_ten_boot_at_once(host: Host) -> None:
    handles = await asyncio.gather(*(host.boot() for _ in range(10)))
    said = await asyncio.gather(*(host.run(handle, f"print({n})", timeout=60) for n, handle in enumerate(handles)))
    assert said == [str(n) for n in range(10)]
    await asyncio.gather(*(host.runtime.kill(handle.id, handle.directory) for handle in handles))
    assert await host.runtime.leftovers() == []


async def test_figures_rise_with_use(host: Host) -> None:
    handle = await host.boot()
    await host.run(handle, "pass")
    idle = await host.runtime.stats(handle)
    assert idle.memory_bytes < 60 * MIB
    assert idle.pids > 0
    await host.run(
        handle,
        dedent("""
        import builtins, time
        builtins.kept = bytearray(os.urandom(1 << 20) * 64)
        open("/home/user/file", "wb").write(kept[:32 << 20])
        end = time.process_time() + 0.3
        while time.process_time() < end: pass
        """),
    )
    busy = await host.runtime.stats(handle)
    assert busy.memory_bytes - idle.memory_bytes > 60 * MIB
    assert busy.cpu_seconds - idle.cpu_seconds > 0.3
    assert 32 * MIB <= busy.disk_bytes - idle.disk_bytes < 40 * MIB
    await host.run(handle, "import builtins; del builtins.kept; os.unlink('/home/user/file')")

    async def given_back() -> bool:
        now = await host.runtime.stats(handle)
        return now.memory_bytes < busy.memory_bytes - 50 * MIB and now.disk_bytes < busy.disk_bytes - 30 * MIB

    await until(given_back)
    assert (await host.runtime.stats(handle)).memory_peak_bytes >= busy.memory_bytes


async def test_written_files_are_not_memory(host: Host) -> None:
    handle = await host.boot(SMALL.model_copy(update={"disk_mib": 1024, "memory_mib": 128}))
    before = await host.runtime.stats(handle)
    said = await host.run(
        handle,
        dedent("""
        with open("/home/user/big", "wb") as file:
            for _ in range(400): file.write(os.urandom(1 << 20))
        print(os.path.getsize("/home/user/big") >> 20)
        """),
        timeout=60,
    )
    after = await host.runtime.stats(handle)
    assert said == "400"
    assert after.disk_bytes >= 400 * MIB
    assert after.memory_bytes - before.memory_bytes < 64 * MIB
    assert after.oom_kills == 0


FILL = dedent("""
    written = 0
    try:
        with open("/home/user/big", "wb", 0) as file:
            while True: written += file.write(b"x" * (1 << 20))
    except OSError as error:
        print(error.errno, written >> 20)
    """)


async def test_a_full_disk_is_enospc_inside_and_a_ceiling_outside(host: Host) -> None:
    handle = await host.boot()
    ceiling = SMALL.disk_mib
    assert await host.run(handle, "s = os.statvfs('/'); print(s.f_blocks * s.f_frsize >> 20)") == str(ceiling)
    errno, written = (await host.run(handle, FILL)).split()
    assert int(errno) == 28
    assert ceiling * 0.9 <= int(written) <= ceiling
    assert (await host.runtime.stats(handle)).disk_bytes <= (ceiling + 8) * MIB
    assert await host.run(handle, "os.unlink('/home/user/big'); print(os.statvfs('/').f_bfree > 0)") == "True"
    errno, again = (await host.run(handle, FILL)).split()
    assert again == written


ESCAPES = dedent("""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    print(sorted(set(line.split()[2] for line in open("/proc/mounts"))))
    for path in ("/.hutch/app/run", "/etc/new"):
        open(path, "a").close()
    libc.chroot(b"."); libc.chroot(b"..")
    fd = os.open("/", os.O_RDONLY)
    os.makedirs("/home/user/jail", exist_ok=True)
    os.chroot("/home/user/jail"); os.fchdir(fd)
    for _ in range(64): os.chdir("..")
    os.chroot(".")
    s = os.statvfs("/")
    print(s.f_blocks * s.f_frsize >> 20)
    """)


async def test_root_inside_cannot_get_around_the_disk_ceiling(host: Host) -> None:
    handle = await host.boot()
    kinds, reached = (await host.run(handle, ESCAPES)).splitlines()
    assert "erofs" not in kinds  # the old root is out of reach, and with it the unlimited
    assert reached == str(SMALL.disk_mib)


HOG = dedent("""
    import signal, time
    child = os.fork()
    if child == 0:
        kept = []
        while True: kept.append(os.urandom(1 << 20))
    _, status = os.waitpid(child, 0)
    print("hog ended", status)
    """)


async def test_memory_is_held_to_the_hard_limit_and_the_kill_is_counted(host: Host) -> None:
    handle = await host.boot(SMALL.model_copy(update={"memory_mib": 128}))
    limit = 128 * MIB + HEADROOM
    hog = asyncio.create_task(host.run(handle, HOG, timeout=60))
    highest = 0
    while not hog.done():
        stats = await host.runtime.stats(handle)
        highest = max(highest, stats.memory_bytes)
        await asyncio.sleep(0.01)
        if not await host.runtime.alive(handle):
            hog.cancel()  # whether the hog alone is killed or the sandbox with it is the kernel's choice
    await asyncio.gather(hog, return_exceptions=True)
    stats = await host.runtime.stats(handle)
    assert highest <= limit
    assert stats.oom_kills > 0
    assert stats.memory_peak_bytes > 100 * MIB


async def test_killing_the_hog_inside_gives_its_memory_back_at_once(host: Host) -> None:
    handle = await host.boot()
    await host.run(
        handle,
        dedent("""
        import builtins, time
        builtins.child = os.fork()
        if child == 0:
            kept = bytearray(os.urandom(1 << 20) * 150)
            open("/tmp/ready", "w").close()
            time.sleep(60)
        while not os.path.exists("/tmp/ready"): time.sleep(0.01)
        """),
    )
    assert (await host.runtime.stats(handle)).memory_bytes > 150 * MIB
    await host.run(handle, "os.kill(child, 9); os.waitpid(child, 0)")

    async def relieved() -> bool:
        return (await host.runtime.stats(handle)).memory_bytes < 60 * MIB

    await until(relieved, timeout=2)
    assert (await host.runtime.stats(handle)).oom_kills == 0


BOMB = dedent("""
    import time
    bomber = os.fork()
    if bomber == 0:
        os.setgid(1000); os.setuid(USER)
        made, refused = 0, 0
        while made < 2000 and refused < 50:
            try:
                if os.fork() == 0:
                    time.sleep(60); os._exit(0)
                made += 1
            except OSError as error:
                refused += error.errno == 11
        with open("/tmp/bomb", "w") as file: file.write(str(made))
        os._exit(0)
    os.waitpid(bomber, 0)
    print(open("/tmp/bomb").read())
    """)


async def test_a_fork_bomb_is_refused_and_the_sandbox_lives_on(host: Host) -> None:
    # Each forked Python costs some 4 MiB: the memory limit is not to come first.
    handle = await host.boot(SMALL.model_copy(update={"memory_mib": 1024}))
    made = int(await host.run(handle, BOMB.replace("USER", "1000"), timeout=60))
    assert SMALL.pids - 1 <= made <= SMALL.pids  # whether the bomber itself is counted depends on the kernel
    # The child must say nothing: it would answer on the same connection, and be taken for its parent if it is first.
    assert await host.run(handle, "child = os.fork()\nif child == 0: os._exit(0)\nprint(child > 0)") == "True"
    assert (await host.runtime.stats(handle)).pids_refused == 0


@pytest.mark.slow
async def test_a_fork_bomb_of_roots_meets_the_hosts_limit(host: Host) -> None:
    handle = await host.boot(SMALL.model_copy(update={"memory_mib": 2048, "pids": 16}))
    bomb = asyncio.create_task(host.run(handle, BOMB.replace("USER", "0"), timeout=100))
    highest = 0
    while not bomb.done() and await host.runtime.alive(handle):
        highest = max(highest, (await host.runtime.stats(handle)).pids)
        await asyncio.sleep(0.05)
    bomb.cancel()
    await asyncio.gather(bomb, return_exceptions=True)
    assert highest <= 4 * 16 + 256
    assert (await host.runtime.stats(handle)).pids_refused > 0
    await host.runtime.kill(handle.id, handle.directory)
    assert await host.runtime.leftovers() == []


SPIN = "import time; end = time.time() + 2\nwhile time.time() < end: pass"


@pytest.mark.parametrize("later", [False, True])
async def test_cpu_is_held_to_the_quota(host: Host, later: bool) -> None:
    handle = await host.boot(SMALL.model_copy(update={"cpus": 2 if later else 0.25}))
    if later:
        await host.runtime.limit_cpus(handle, 0.25)
    await host.run(handle, "pass")
    start, before = time.monotonic(), await host.runtime.stats(handle)
    await host.run(handle, SPIN)
    used = (await host.runtime.stats(handle)).cpu_seconds - before.cpu_seconds
    assert used / (time.monotonic() - start) < 0.4


async def test_the_memory_ceiling_is_never_below_what_is_used(host: Host) -> None:
    handle = await host.boot()
    for code in (
        "pass",
        "import builtins; builtins.kept = os.urandom(64 << 20)",
        "open('/home/user/f', 'wb').write(kept)",
    ):
        await host.run(handle, code)
        used = (await host.runtime.stats(handle)).memory_bytes
        assert host.runtime.memory_ceiling(handle) >= used - MIB  # the kernel counts in batches
    await host.runtime.kill(handle.id, handle.directory)
    assert host.runtime.memory_ceiling(handle) > 1 << 40


async def test_logs_that_the_guest_can_grow_are_counted_as_disk(host: Host) -> None:
    handle = await host.boot()
    before = (await host.runtime.stats(handle)).disk_bytes
    await host.run(handle, "os.write(2, b'x' * (8 << 20))")
    assert (await host.runtime.stats(handle)).disk_bytes - before >= 8 * MIB
