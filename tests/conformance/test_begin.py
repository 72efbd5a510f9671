"""What every runtime must do that can begin kernels ahead of a thaw."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hutch.errors import BootFailed, SnapshotIncompatible, ThawFailed
from hutch.model import GUEST_PORT
from hutch.runtime.base import Handle, SandboxSpec
from tests.conformance.conftest import SMALL, Host
from tests.conformance.test_freeze import kill_a_daemon_in_the_middle
from tests.conformance.test_runtime import assert_nothing_left, until

pytestmark = pytest.mark.root
SLOWLY = SMALL.model_copy(update={"cpus": 0.5})


@pytest.fixture
async def snapshot(host: Host) -> AsyncIterator[Path]:
    """Of a sandbox with something in memory and on disk, and a socket of the address that it had."""
    await host.runtime.check()
    if not host.runtime.begins:
        with pytest.raises(BootFailed, match="no kernels ahead"):
            await host.runtime.begin(await host.spec())
        pytest.skip("this runtime begins no kernels ahead")
    handle = await host.boot()
    await host.run(
        handle,
        "import builtins, socket; builtins.n = 1; open('/home/user/f', 'w').write('then')\n"
        "builtins.u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect(('169.254.169.253', 53))",
    )
    yield (await host.put_away(handle, host.root / "snapshot")).path


async def begin(host: Host) -> tuple[SandboxSpec, Handle]:
    """A kernel, and the spec that it is to be thawed with."""
    spec = await host.spec()
    return spec, await host.runtime.begin(replace(spec, resources=SLOWLY, hostname="nobody"))


def tasks(handle: Handle) -> Iterator[Path]:
    """What the host says of each thread of its kernel."""
    return Path(f"/proc/{handle.pid}/task").glob("*/status")


def confinement(handle: Handle) -> dict[str, str]:
    """What the host lets its kernel do."""
    lines = Path(f"/proc/{handle.pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    told = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: status[name] for name in (*told, "Seccomp_filters")}


async def test_a_kernel_that_was_begun_is_the_sandbox_that_is_thawed_in_it(host: Host, snapshot: Path) -> None:
    runtime = host.runtime
    spec, begun = await begin(host)
    await until(lambda: all("State:\tT" in task.read_text() for task in tasks(begun)))  # it stands still
    used = (await runtime.stats(begun)).cpu_seconds
    await asyncio.sleep(0.3)
    after = await runtime.stats(begun)
    assert after.cpu_seconds == used and 0 < after.memory_bytes < 32 << 20
    assert await runtime.alive(begun) and await host.fresh().leftovers() == [spec.id]
    assert await host.fresh().adopt(spec.id, spec.directory) is None  # it is no sandbox
    with pytest.raises(BootFailed, match="already"):
        await runtime.begin(spec)

    assert await runtime.thaw(spec, snapshot, begun) == begun
    assert await host.run(begun, "print(n, open('/home/user/f').read(), os.uname().nodename)") == "1 then box"
    assert int(await host.run(begun, "print(open('/proc/meminfo').readline().split()[1])")) == SMALL.memory_mib * 1024
    with socket.create_connection((spec.slot.guest_address, GUEST_PORT)) as connection:
        dial = "import socket; print(socket.create_connection(('127.0.0.1', 49983)).getpeername()[0])"
        assert await host.run(begun, dial) == "127.0.0.1"
        assert connection.getpeername()[0] == spec.slot.guest_address
    confined = confinement(begun)
    assert int(confined["CapEff"], 16) == 0 and "0" not in confined["Uid"].split() and confined["Seccomp"] == "2"
    assert confined == confinement(await host.boot())
    assert Path(f"/proc/{begun.pid}/oom_score_adj").read_text() == "500\n"

    # It lives on as any other: found by a later daemon, saved while it runs, put away, and thawed anew.
    later = host.fresh()
    assert await later.adopt(spec.id, spec.directory) == begun
    await later.freeze(begun, host.root / "live", keep_running=True)
    await host.run(begun, "import builtins; builtins.n = 2")
    await host.put_away(begun, host.root / "second")
    again, other = await begin(host), await begin(host)
    two, one = await asyncio.gather(
        runtime.thaw(again[0], host.root / "second", again[1]), runtime.thaw(other[0], host.root / "live", other[1])
    )
    for handle, number in ((two, "2"), (one, "1")):
        assert await host.run(handle, "print(n)") == number


async def test_a_kernel_that_has_ended_meanwhile_is_a_thaw_that_failed(host: Host, snapshot: Path) -> None:
    spec, begun = await begin(host)
    os.kill(begun.pid, 9)

    async def dead() -> bool:
        return not await host.runtime.alive(begun)

    await until(dead)
    with pytest.raises(ThawFailed, match="has ended"):
        await host.runtime.thaw(spec, snapshot, begun)
    await assert_nothing_left(host, spec)


async def test_a_kernel_of_another_release_is_a_thaw_that_failed(host: Host, snapshot: Path) -> None:
    """The program may be replaced while the daemon runs, and snapshots of the new one come in."""
    spec, begun = await begin(host)
    origin = spec.directory / "origin.json"
    told = origin.read_text()
    assert "20240729" in told
    origin.write_text(told.replace("20240729", "20240701"))
    with pytest.raises(ThawFailed, match=r"20240701.*20240729"):
        await host.runtime.thaw(spec, snapshot, begun)
    await assert_nothing_left(host, spec)


async def test_what_cannot_be_thawed_leaves_it_as_it_was_or_nothing(host: Host, snapshot: Path) -> None:
    spec, begun = await begin(host)
    larger = replace(spec, resources=SMALL.model_copy(update={"disk_mib": 2 * SMALL.disk_mib}))
    with pytest.raises(SnapshotIncompatible, match="disk size"):
        await host.runtime.thaw(larger, snapshot, begun)
    assert await host.runtime.alive(begun)
    image = snapshot / "checkpoint.img"
    image.write_bytes(bytes(image.stat().st_size))
    with pytest.raises(ThawFailed, match="Restore"):
        await host.runtime.thaw(spec, snapshot, begun)
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("after", [0, 0.02, 0.05])
async def test_kill_wins_over_a_thaw_into_it(host: Host, snapshot: Path, after: float) -> None:
    spec, begun = await begin(host)
    thawing = asyncio.create_task(host.runtime.thaw(spec, snapshot, begun))
    await asyncio.sleep(after)
    await host.runtime.kill(spec.id, spec.directory)
    (result,) = await asyncio.gather(thawing, return_exceptions=True)
    assert isinstance(result, Handle | ThawFailed)
    await host.runtime.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


async def test_a_cancelled_thaw_into_it_leaves_nothing(host: Host, snapshot: Path) -> None:
    spec, begun = await begin(host)
    thawing = asyncio.create_task(host.runtime.thaw(spec, snapshot, begun))
    await asyncio.sleep(0.03)
    thawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await thawing
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("after", [0.03, 0.08, 0.15])
async def test_a_daemon_killed_while_it_begins_one_leaves_nothing_that_kill_does_not_end(
    host: Host, snapshot: Path, after: float
) -> None:
    spec = await host.spec()
    await kill_a_daemon_in_the_middle(host, after, "begin", spec)
    later = host.fresh()
    assert await later.adopt(spec.id, spec.directory) is None
    await later.kill(spec.id, spec.directory)
    await asyncio.sleep(0.3)
    await later.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)


@pytest.mark.parametrize("after", [0.005, 0.02, 0.04, 0.08])
async def test_a_daemon_killed_while_it_thaws_into_one_leaves_nothing_that_kill_does_not_end(
    host: Host, snapshot: Path, after: float
) -> None:
    spec, begun = await begin(host)
    await kill_a_daemon_in_the_middle(host, after, "thaw", spec, snapshot, begun)
    later = host.fresh()
    adopted = await later.adopt(spec.id, spec.directory)
    assert adopted is None or await host.run(adopted, "print(n)") == "1"
    await later.kill(spec.id, spec.directory)
    await assert_nothing_left(host, spec)
