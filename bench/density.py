"""How many fit: what an idle sandbox and a paused one cost in memory, CPU and disk."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from pathlib import Path

from harness import Row, main, spread
from hutch import AsyncHutch, AsyncSandbox

MIB = 1 << 20
AT_ONCE = 8
"""Creates and pauses under way at a time: more of them than cores only wait for each other."""
WATCHED = 20.0
"""Seconds for which the CPU time of what is idle is counted."""
TICK = os.sysconf("SC_CLK_TCK")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--idle", type=int, default=100, help="sandboxes that run and do nothing")
    parser.add_argument("--paused", type=int, default=300, help="paused sandboxes")


def daemons() -> list[int]:
    """Process ids of the node and the server under test."""
    mine = f"HUTCH_DATA_DIR={os.environ['HUTCH_DATA_DIR']}\0".encode()
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            ours = mine in (process / "environ").read_bytes()
        except OSError:
            continue
        if ours and (b"hutch.node" in command or b"hutch.api" in command):
            found.append(int(process.name))
    return found


def kernels() -> list[int]:
    """Process ids of all sandboxes under test."""
    mine = str(Path(os.environ["HUTCH_DATA_DIR"]).parent).encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"runsc" in (command := (process / "cmdline").read_bytes()):
                found += [int(process.name)] if mine in command else []
        except OSError:
            continue
    return found


def pss(pid: int) -> int:
    return 1024 * int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0])


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def stored() -> int:
    """Bytes that the node's snapshots take on the disk."""
    root = Path(os.environ["HUTCH_DATA_DIR"]) / "node" / "snapshots"
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*") if path.is_file())


async def several(count: int, work) -> list:
    room = asyncio.Semaphore(AT_ONCE)

    async def one():
        async with room:
            return await work()

    return await asyncio.gather(*(one() for _ in range(count)))


async def ready() -> AsyncSandbox:
    sandbox = await AsyncSandbox.create(template="standard", request_timeout=120)
    await sandbox.exec("echo used > file")
    return sandbox


async def usage(sandboxes: list[AsyncSandbox]) -> list:
    async with AsyncHutch() as hutch:
        return [(await hutch.sandboxes.get(sandbox.id)).info.usage for sandbox in sandboxes]


async def idle(count: int) -> list[Row]:
    memory = sum(map(pss, daemons()))
    sandboxes = await several(count, ready)
    await asyncio.sleep(5)
    before, daemons_before = await usage(sandboxes), sum(map(cpu, daemons()))
    begin = time.perf_counter()
    await asyncio.sleep(WATCHED)
    watched, daemons_used = time.perf_counter() - begin, sum(map(cpu, daemons())) - daemons_before
    after = await usage(sandboxes)
    used = sum(now.cpu_seconds - then.cpu_seconds for now, then in zip(after, before, strict=True))
    grown = sum(map(pss, daemons())) - memory
    own = sum(map(pss, kernels()))
    await several_kill(sandboxes)
    charged = [now.memory_peak_bytes / MIB for now in after]
    return [
        (f"{count} idle: memory each, charged to its control group, peak", "MiB", spread(charged)),
        (f"{count} idle: memory each, PSS of its processes", "MiB", round(own / count / MIB, 1)),
        (f"{count} idle: memory that node and server grew by, each", "KiB", round(grown / count / 1024)),
        (f"{count} idle: CPU each, of one core", "%", round(100 * used / watched / count, 2)),
        (f"{count} idle: CPU of node and server, of one core", "%", round(100 * daemons_used / watched, 1)),
    ]


async def several_kill(sandboxes: list[AsyncSandbox]) -> None:
    await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))


async def paused(count: int) -> list[Row]:
    memory, disk = sum(map(pss, daemons())), stored()

    async def one() -> AsyncSandbox:
        sandbox = await ready()
        await sandbox.pause()
        return sandbox

    begin = time.perf_counter()
    sandboxes = await several(count, one)
    took = time.perf_counter() - begin
    left = len(kernels())
    used = sum(map(cpu, daemons()))
    plain = stored() - disk
    while True:  # until the background has put all into chunks
        size = stored()
        await asyncio.sleep(10)
        if abs(stored() - size) < MIB:
            break
    used = sum(map(cpu, daemons())) - used
    grown = sum(map(pss, daemons())) - memory
    resumed = []
    for sandbox in sandboxes[:10]:
        begin = time.perf_counter()
        answer = await sandbox.exec(["cat", "file"])
        resumed.append((time.perf_counter() - begin) * 1000)
        assert answer.stdout == "used\n"
    await several_kill(sandboxes)
    return [
        (f"{count} paused: made and paused in", "s", round(took, 1)),
        (f"{count} paused: processes left of them", "", left),
        (f"{count} paused: memory that node and server grew by, each", "KiB", round(grown / count / 1024)),
        (f"{count} paused: disk each, as plain files", "MiB", round(plain / count / MIB, 2)),
        (f"{count} paused: CPU to put each into chunks", "s", round(used / count, 2)),
        (f"{count} paused: resume to first exec, one after the other", "ms", spread(resumed)),
    ]


async def measure(arguments: argparse.Namespace) -> list[Row]:
    async with await AsyncSandbox.create(template="standard"):
        pass  # page cache
    rows: list[Row] = []
    if arguments.idle:
        rows += await idle(arguments.idle)
    return rows + (await paused(arguments.paused) if arguments.paused else [])


if __name__ == "__main__":
    main("density", measure, options, kernels_ahead="0")  # it counts processes
