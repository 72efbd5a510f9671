"""What it costs that a sandbox's kernel tells what goes on inside: CPU time of the sandbox for work that does little
else than start programs, fork and connect, untraced and traced in turns; and of the node for an event."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hutch import AsyncHutch
from hutch.model import new_id
from hutch.node.activity import Activity
from hutch.node.entry import Entry, Registry
from hutch.node.journal import Journal
from hutch.node.records import SandboxRecord
from hutch.node.tracing import Tracing
from hutch.runtime.cgroups import detect
from hutch.runtime.control import call
from hutch.runtime.trace import session
from hutch.runtime.trace.session import POINTS, Level
from hutch.runtime.trace.watch import Watch

from harness import Row, main, spread  # isort: skip

WORK = {
    "start a program (/bin/true)": (100, "for i in $(seq 100); do /bin/true; done"),
    "start Python": (8, "for i in $(seq 8); do python3 -c 'import json'; done"),
    "fork": (100, "for i in $(seq 100); do (:); done"),
    "connect within the sandbox, refused": (
        2000,
        "exec python3 -c 'import socket\n"
        'for i in range(2000):\n s = socket.socket(); s.connect_ex(("127.0.0.1", 1)); s.close()\'',
    ),
}
LEVELS: tuple[Level, ...] = ("off", "processes", "all")
EVENTS = 3000


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=9)


async def measure(arguments: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    async with AsyncHutch() as client:
        box = await client.sandboxes.create()
        node = Path(os.environ["HUTCH_DATA_DIR"]) / "node"
        control = node / "runsc" / box.id / f"runsc-{box.id}.sock"
        groups = detect((node / "id").read_text().strip())
        for what, (times, command) in WORK.items():
            used: dict[Level, list[float]] = {level: [] for level in LEVELS}
            for turn in range(arguments.rounds + 1):
                for level in LEVELS if turn % 2 else LEVELS[::-1]:
                    cpu = await cost(lambda: groups.usage(box.id).cpu_seconds, control, level, box.exec, command)
                    if turn:
                        used[level].append(cpu / times * 1e6)
            rows.append((f"{what}: untraced", "µs CPU", spread(used["off"])))
            for level in LEVELS[1:]:
                more = [each - off for each, off in zip(used[level], used["off"], strict=True)]
                rows.append((f"{what}: more with {level}, pairwise", "µs CPU", spread(more)))
        await box.kill()
    return [*rows, ("node: one event, to the journal", "µs CPU", spread([await of_the_node() for _ in range(5)]))]


async def cost(usage: Callable[[], float], control: Path, level: Level, run: Callable, command: str) -> float:
    """CPU seconds of the sandbox."""
    line = await session.begin(control, POINTS[level]) if level != "off" else None
    reader = asyncio.create_task(drain(line)) if line is not None else None
    before = usage()
    await run(command)
    used = usage() - before
    if reader is not None:
        await asyncio.to_thread(call, control, "containerManager.DeleteTraceSession", "Default")
        await reader
    return used


async def drain(line: socket.socket) -> None:
    while await asyncio.get_running_loop().sock_recv(line, 1 << 16):
        pass
    line.close()


async def of_the_node() -> float:
    """Microseconds of an execve with an environment of 2 KiB, from the socket to the journal."""
    with tempfile.TemporaryDirectory() as directory:
        journal, registry = Journal(Path(directory) / "node.db"), Registry()
        await journal.open()
        record = SandboxRecord.model_construct(id=new_id("sbx"), member=None)
        registry.add(Entry(record))
        activity = Activity(journal)
        tracing = Tracing(registry, activity, lambda id: None)
        watch = Watch(record.id, tracing.heard)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)
        begin = time.process_time()
        for number in range(EVENTS):
            theirs.send(execve(number))
        sending = time.process_time() - begin
        watch.read(ours)
        theirs.close()
        while watch._lines:
            await asyncio.sleep(0.01)
        await activity.close()
        used = time.process_time() - begin - sending
        await journal.close()
    return used / EVENTS * 1e6


def execve(number: int) -> bytes:
    """As gVisor says it."""

    def field(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value) & 0x7F | 0x80, len(value) >> 7]) + value

    who = b"\x20" + bytes([number & 0x7F | 0x80, number >> 7 | 0x80, 1]) + field(8, b"/home/user")
    words = [b"cc1", b"-quiet", b"-o", b"x.o", b"%d.c" % number]
    body = field(1, who) + field(2, b"/usr/bin/cc1") + b"".join(field(3, word) for word in words)
    return b"\x08\0\x03\0\0\0\0\0" + body + field(4, b"E" * 2048)


if __name__ == "__main__":
    main(__doc__.split(":")[0], measure, options, trace="off", template_snapshots="false", warm_pool_mib="0")
