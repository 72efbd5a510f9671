"""One sandbox: cold boot to first exec, exec round trip, file throughput."""

from __future__ import annotations

import argparse
import asyncio
import time

from harness import Row, main, spread
from hutch import AsyncSandbox

MIB = 1 << 20


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--boots", type=int, default=20, help="sandboxes to boot, one after the other")
    parser.add_argument("--execs", type=int, default=200, help="commands to run in one sandbox")
    parser.add_argument("--file-mib", type=int, default=256, help="size of the file written and read")


async def boot_to_exec() -> tuple[float, float]:
    """Milliseconds from the call to the answer of create, and to the answer of the first exec."""
    begin = time.perf_counter()
    async with await AsyncSandbox.create(template="standard") as sandbox:
        created = time.perf_counter()
        result = await sandbox.exec(["/bin/true"])
        assert result.exit_code == 0, result
        return (created - begin) * 1000, (time.perf_counter() - begin) * 1000


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
    await boot_to_exec()  # the first one also fills the page cache
    boots = [await boot_to_exec() for _ in range(arguments.boots)]
    async with await AsyncSandbox.create(template="standard") as sandbox:
        direct = await exec_round_trips(sandbox, ["/bin/true"], arguments.execs)
        shell = await exec_round_trips(sandbox, "true", max(10, arguments.execs // 10))
        write, read = await file_throughput(sandbox, arguments.file_mib)
        await asyncio.sleep(0)
    return [
        ("create a sandbox (cold boot)", "ms", spread([created for created, _ in boots])),
        ("cold boot to first exec answered", "ms", spread([total for _, total in boots])),
        ("exec round trip, /bin/true", "ms", spread(direct)),
        ("exec round trip, login shell", "ms", spread(shell)),
        (f"file write, {arguments.file_mib} MiB", "MiB/s", round(write)),
        (f"file read, {arguments.file_mib} MiB", "MiB/s", round(read)),
    ]


if __name__ == "__main__":
    main("start", measure, options)
