"""The node's end of what a sandbox's kernel tells."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hutch.runtime.trace import watch as watching
from hutch.runtime.trace.events import Connecting, Event, Lost, Started
from hutch.runtime.trace.watch import Watch
from tests.unit.runtime.trace_messages import EXECVE, clone, connect, context, execve, exited, field, message


class Kernel:
    """One sandbox's, and what was told of it."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.watch = Watch("sbx", lambda _, event: self.told.append(event))
        ours, self.line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.line.setblocking(False)
        self.watch.read(ours)

    async def say(self, *messages: bytes) -> list[Event]:
        """What was told of it."""
        for each in messages:
            self.line.send(each)
        before = -1
        while before != len(self.told):
            before = len(self.told)
            await asyncio.sleep(0.01)
        return self.told


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.watch.close()
    made.line.close()


async def test_a_program_that_hides_behind_forks_and_names_is_told_with_its_path(kernel: Kernel) -> None:
    said = (execve(7, "/bin/sh"), clone(7, 8), clone(8, 9), exited(8), connect(9, "203.0.113.9", 443, name="innocent"))
    told = await kernel.say(*said, execve(9, "/tmp/evil", "innocent", uid=1000, cwd="/tmp"), exited(9))
    shell, connecting, evil = told
    assert isinstance(shell, Started)
    assert isinstance(connecting, Connecting)
    assert (connecting.pid, connecting.path, connecting.name) == (9, "/bin/sh", "innocent")
    assert isinstance(evil, Started)
    assert (evil.pid, evil.parent, evil.path, evil.argv, evil.uid) == (9, 8, "/tmp/evil", ("innocent",), 1000)
    assert kernel.watch.programs.of(9).path is None


async def test_a_thread_is_no_process_and_what_was_there_before_is_known(kernel: Kernel) -> None:
    kernel.watch.programs.seed([(5, 1, "/usr/bin/node"), (6, 1, "/old")])
    told = await kernel.say(clone(5, 5), connect(5, "203.0.113.9", 80))
    assert isinstance(told[0], Connecting)
    assert told[0].path == "/usr/bin/node"


async def test_what_the_kernel_dropped_is_told_as_lost_once(kernel: Kernel) -> None:
    told = await kernel.say(clone(1, 2, dropped=3), clone(1, 3, dropped=3), clone(1, 4, dropped=5))
    assert told == [Lost(3), Lost(2)]


async def test_nonsense_is_lost_and_the_rest_goes_on(kernel: Kernel) -> None:
    told = await kernel.say(b"\xff" * 40, b"x", execve(3, "/bin/true"))
    assert told[:2] == [Lost(1), Lost(1)]
    assert isinstance(told[2], Started)


async def test_a_clock_that_is_far_off_is_not_believed(kernel: Kernel) -> None:
    told = await kernel.say(message(EXECVE, context(3, at=9.0) + field(2, "/bin/true")))
    assert isinstance(told[0], Started)
    assert told[0].time == pytest.approx(time.time(), abs=60)


async def test_a_flood_is_read_no_faster_than_it_may(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "BURST", 100.0)
    monkeypatch.setattr(watching, "RATE", 10.0)
    kernel.watch._allowed = 100.0
    for number in range(150):
        kernel.line.send(execve(3, f"/bin/{number}"))
    await asyncio.sleep(0.05)
    assert 100 <= len(kernel.told) <= 105
    kernel.watch.close()  # the sandbox ends: what it had said is heard
    assert len(kernel.told) == 150


async def test_the_kernel_that_starts_finds_a_door_that_is_there_for_it_alone(tmp_path: Path) -> None:
    told: list[Event] = []
    watch = Watch("sbx", lambda _, event: told.append(event))
    watch.listen(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(line, str(tmp_path / "s"))
        line.send(b"\x08\x02")
        assert await loop.sock_recv(line, 100) == b"\x08\x01"
        line.send(execve(1, "/init"))
        await asyncio.sleep(0.02)
        assert [type(event) for event in told] == [Started]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other, pytest.raises(ConnectionRefusedError):
            other.connect(str(tmp_path / "s"))
    watch.close()
