"""State: pause and resume by dirty memory, live snapshots, rollback, forks; what many snapshots take on disk."""

from __future__ import annotations

import argparse
import asyncio
import time

from harness import Row, main, spread
from hutch import AsyncSandbox
from hutch.model import ResourcesOverride

MIB = 1 << 20
HOLD = "import os, time; held = os.urandom({mib} << 20); print('ready', flush=True); time.sleep(1e6)"
"""A process with so much memory that no page of it is like another."""
REST = 2
"""Seconds after which a snapshot that was written past the page cache has been read back into it."""
WORK = (
    "head -c 200000 /dev/urandom | base64 >> notes; sort notes | md5sum > sum; "
    "git init -q repo; tail -n 200 notes > repo/{n}"
)
"""One turn of an agent: some text, a program or two, a file more."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5, help="of pause and resume, for each size")
    parser.add_argument("--dirty-mib", type=int, nargs="*", default=[10, 200, 1024], help="memory held while frozen")
    parser.add_argument("--forks", type=int, nargs="*", default=[10, 50], help="forks at once")
    parser.add_argument("--snapshots", type=int, default=100, help="snapshots of one sandbox at work")


async def timed(work) -> tuple[float, object]:
    begin = time.perf_counter()
    result = await work
    return (time.perf_counter() - begin) * 1000, result


async def holding(mib: int) -> AsyncSandbox:
    """A sandbox with a process that holds so much memory."""
    sandbox = await AsyncSandbox.create(template="standard", resources=ResourcesOverride(memory_mib=mib + 512))
    process = await sandbox.start(["python3", "-c", HOLD.format(mib=mib)])
    async for output in process:
        if "ready" in output.text:
            break
    return sandbox


async def cycles(mib: int, rounds: int) -> list[Row]:
    paused, resumed, rested, stopped, saved, back = [], [], [], [], [], []
    async with await holding(mib) as sandbox:
        for _ in range(rounds):
            took, snapshot = await timed(sandbox.snapshot())
            saved.append(took)
            stopped.append(snapshot.stopped_ms)
            for rest, times in ((0, resumed), (REST, rested)):
                paused.append((await timed(sandbox.pause()))[0])
                await asyncio.sleep(rest)
                times.append((await timed(sandbox.exec(["/bin/true"])))[0])  # wakes it
            back.append((await timed(sandbox.rollback(snapshot)))[0])
    held = f"{mib} MiB held"
    return [
        (f"pause, {held}", "ms", spread(paused)),
        (f"resume to first exec, in the moment of the pause, {held}", "ms", spread(resumed)),
        (f"resume to first exec, {REST} s after the pause, {held}", "ms", spread(rested)),
        (f"live snapshot, whole call, {held}", "ms", spread(saved)),
        (f"live snapshot, nothing runs for, {held}", "ms", spread(stopped)),
        (f"rollback with its safety snapshot, {held}", "ms", spread(back)),
    ]


async def forks(count: int) -> list[Row]:
    async with await AsyncSandbox.create(template="standard") as sandbox:
        await sandbox.exec("echo prepared > file")
        took, made = await timed(sandbox.fork(count))
        answering, answers = await timed(asyncio.gather(*(fork.exec(["cat", "file"]) for fork in made)))
        assert [answer.stdout for answer in answers] == ["prepared\n"] * count
        await asyncio.gather(*(fork.kill() for fork in made))
    return [
        (f"fork into {count}, all running", "ms", round(took)),
        (f"then one exec in each, all at once ({count})", "ms", round(answering)),
    ]


async def store(count: int) -> list[Row]:
    """How much disk many snapshots of one sandbox at work take, against the sum of their sizes."""
    async with await AsyncSandbox.create(template="standard") as sandbox:
        for number in range(count):
            await sandbox.exec(WORK.format(n=number))
            await sandbox.snapshot(name=f"turn-{number}")
        found = await sandbox.snapshots()
        while any(one.stored_bytes is None for one in found):
            await asyncio.sleep(1)
            found = await sandbox.snapshots()
    total, stored = sum(one.bytes for one in found), sum(one.stored_bytes or 0 for one in found)
    return [
        (f"{count} snapshots, sum of their sizes", "MiB", round(total / MIB)),
        (f"{count} snapshots, stored", "MiB", round(stored / MIB, 1)),
        (f"{count} snapshots, stored of the sum", "%", round(100 * stored / max(total, 1), 1)),
    ]


async def measure(arguments: argparse.Namespace) -> list[Row]:
    async with await AsyncSandbox.create(template="standard") as first:
        await first.pause()  # page cache
    rows: list[Row] = []
    for mib in arguments.dirty_mib:
        rows += await cycles(mib, arguments.rounds)
    for count in arguments.forks:
        rows += await forks(count)
    return rows + (await store(arguments.snapshots) if arguments.snapshots else [])


if __name__ == "__main__":
    main("snapshots", measure, options)
