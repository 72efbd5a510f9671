"""Many sandboxes at once: time until all answer, memory of each, and a clean end."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from harness import Row, main, spread
from hutch import AsyncHutch, AsyncSandbox


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=50, help="sandboxes at once")


def sandbox_kernels() -> dict[int, int]:
    """PSS in bytes of each runsc process tree's processes, by pid."""
    sizes = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            name = (process / "comm").read_text().strip()
            if name.startswith(("runsc", "exe")) and b"runsc" in (process / "cmdline").read_bytes():
                rollup = (process / "smaps_rollup").read_text()
                sizes[int(process.name)] = 1024 * int(rollup.split("\nPss:")[1].split()[0])
        except (OSError, IndexError):
            continue
    return sizes


async def first_answer(begin: float) -> tuple[AsyncSandbox, float]:
    sandbox = await AsyncSandbox.create(template="standard", request_timeout=120)
    result = await sandbox.exec(["/bin/true"])
    assert result.exit_code == 0, result
    return sandbox, time.perf_counter() - begin


async def measure(arguments: argparse.Namespace) -> list[Row]:
    async with await AsyncSandbox.create(template="standard"):
        pass  # page cache
    before = sandbox_kernels()
    begin = time.perf_counter()
    started = await asyncio.gather(*(first_answer(begin) for _ in range(arguments.count)))
    all_answer = time.perf_counter() - begin
    kernels = {pid: size for pid, size in sandbox_kernels().items() if pid not in before}
    begin = time.perf_counter()
    answers = await asyncio.gather(*(sandbox.exec(["/bin/hostname"]) for sandbox, _ in started))
    round_trip = time.perf_counter() - begin
    assert len({answer.stdout for answer in answers}) == arguments.count
    async with AsyncHutch() as hutch:
        fresh = [await hutch.sandboxes.get(sandbox.id) for sandbox, _ in started]
    charged = [box.info.usage.memory_peak_bytes / 2**20 for box in fresh]
    begin = time.perf_counter()
    await asyncio.gather(*(sandbox.kill() for sandbox, _ in started))
    killed = time.perf_counter() - begin
    left = [pid for pid in sandbox_kernels() if pid in kernels]
    async with AsyncHutch() as hutch:
        alive = await hutch.sandboxes.list()
    count = arguments.count
    return [
        (f"{count} at once: until each answers an exec", "s", spread([seconds for _, seconds in started])),
        (f"{count} at once: until all answer", "s", round(all_answer, 2)),
        (f"{count} running: one exec in each, all at once", "s", round(round_trip, 2)),
        ("memory each (PSS of the sandbox's processes)", "MiB", round(sum(kernels.values()) / count / 2**20, 1)),
        ("memory each (charged to its control group, peak)", "MiB", spread(charged)),
        (f"kill all {count}", "s", round(killed, 2)),
        ("left behind (processes + sandboxes listed)", "", len(left) + len(list(alive))),
    ]


if __name__ == "__main__":
    main("many", measure, options)
