"""Create to first exec from the warm pool, from a thaw and from a cold boot; exec round trip, file throughput."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable

from harness import Row, main, spread
from hutch import AsyncHutch, AsyncSandbox

MIB = 1 << 20
TEMPLATE = "standard"
SIZES = itertools.count(600)
WAYS: dict[str, Callable[[], dict[str, int]]] = {
    "warm": dict,
    "thaw": lambda: {"memory_mib": 520},
    "thaw, no kernel ahead": lambda: {"memory_mib": next(SIZES)},
    "boot": lambda: {"disk_mib": 4100},
}
"""What to ask for so that a sandbox starts in this way. No kernel is begun ahead for a size that nobody has had."""
PATIENCE = 5.0
"""Seconds to wait for a kernel that is begun ahead: there may be none, by the settings."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=20, help="sandboxes to start in each way, one after the other")
    parser.add_argument("--at-once", type=int, default=10, help="sandboxes to start in each way at the same time")
    parser.add_argument("--bursts", type=int, default=3, help="how often to do that")
    parser.add_argument("--execs", type=int, default=200, help="commands to run in one sandbox")
    parser.add_argument("--file-mib", type=int, default=256, help="size of the file written and read")


async def start(way: str | None, resources: dict[str, int]) -> tuple[AsyncSandbox, float, float]:
    """A sandbox; milliseconds from the call to the answer of create, and to the answer of the first exec."""
    begin = time.perf_counter()
    sandbox = await AsyncSandbox.create(template=TEMPLATE, resources=resources)
    created = time.perf_counter()
    result = await sandbox.exec(["/bin/true"])
    answered = time.perf_counter()
    assert result.exit_code == 0, result
    assert way is None or way.startswith(sandbox.info.start), (way, sandbox.info.start, sandbox.info.start_reason)
    return sandbox, (created - begin) * 1000, (answered - begin) * 1000


async def burst(way: str | None, count: int) -> list[tuple[float, float]]:
    """As many as that, at once."""
    resources = WAYS[way]() if way is not None else {}
    started = await asyncio.gather(*(start(way, resources) for _ in range(count)))
    for sandbox, _, _ in started:
        await sandbox.kill()
    return [(created, answered) for _, created, answered in started]


async def settled(warm: int, *, kernel: bool = False) -> None:
    """Until the template has a snapshot, so many wait in the pool, and a kernel if wanted, and the machine has had a
    moment of rest."""
    until = time.monotonic() + PATIENCE
    async with AsyncHutch() as hutch:
        while True:
            (template,) = [each for each in await hutch.templates.list() if each.name == TEMPLATE]
            ahead = not kernel or (await hutch.node()).kernels_ahead or time.monotonic() > until
            if template.snapshot and template.warm >= warm and ahead:
                return await asyncio.sleep(0.5)
            await asyncio.sleep(0.2)


async def starts(arguments: argparse.Namespace) -> list[Row]:
    """Each way, at one and at many at once."""
    for count in (1, arguments.at_once):
        await burst(
            None, count
        )  # the first one also fills the page cache; the last ones are what the pool prepares for
    await settled(1)
    await burst("thaw", 1)  # from here on a kernel of its size is begun ahead
    rows: list[Row] = []
    for count, rounds in ((1, arguments.rounds), (arguments.at_once, arguments.bursts)):
        for way in WAYS:
            times = []
            for _ in range(rounds):
                await settled(count, kernel=way == "thaw")
                times += await burst(way, count)
            rows.append((f"create, {way}, {count} at once", "ms", spread([created for created, _ in times])))
            rows.append((f"create to first exec, {way}, {count} at once", "ms", spread([total for _, total in times])))
    return rows


async def exec_round_trips(sandbox: AsyncSandbox, command: str | list[str], count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        result = await sandbox.exec(command)
        times.append((time.perf_counter() - begin) * 1000)
        assert result.exit_code == 0, result
    return times


async def file_throughput(sandbox: AsyncSandbox, mib: int) -> tuple[float, float]:
    """MiB per second written and read."""
    block = bytes(range(256)) * 4096

    async def blocks():
        for _ in range(mib):
            yield block

    begin = time.perf_counter()
    await sandbox.files.write("/home/user/bench.bin", blocks())
    wrote = time.perf_counter() - begin
    begin, size = time.perf_counter(), 0
    async for chunk in sandbox.files.stream("/home/user/bench.bin"):
        size += len(chunk)
    read = time.perf_counter() - begin
    assert size == mib * MIB, size
    return mib / wrote, mib / read


async def measure(arguments: argparse.Namespace) -> list[Row]:
    rows = await starts(arguments)
    async with await AsyncSandbox.create(template=TEMPLATE) as sandbox:
        direct = await exec_round_trips(sandbox, ["/bin/true"], arguments.execs)
        shell = await exec_round_trips(sandbox, "true", max(10, arguments.execs // 10))
        write, read = await file_throughput(sandbox, arguments.file_mib)
        await asyncio.sleep(0)
    return [
        *rows,
        ("exec round trip, /bin/true", "ms", spread(direct)),
        ("exec round trip, login shell", "ms", spread(shell)),
        (f"file write, {arguments.file_mib} MiB", "MiB/s", round(write)),
        (f"file read, {arguments.file_mib} MiB", "MiB/s", round(read)),
    ]


if __name__ == "__main__":
    main("start", measure, options)
