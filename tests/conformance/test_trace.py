"""What the kernels of sandboxes tell of their inside, of runtimes that can: the guest has no part in it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from textwrap import dedent
from typing import TypeVar

import pytest

from hutch.runtime.base import Handle, Runtime
from hutch.runtime.gvisor import GvisorRuntime
from hutch.runtime.trace.events import Connecting, Event, Lost, Started
from hutch.runtime.trace.session import Level
from hutch.runtime.trace.tracer import Tracer
from tests.conformance.conftest import Host

pytestmark = pytest.mark.root
T = TypeVar("T", bound=Event)

HIDDEN = dedent(
    """
    import ctypes, shutil
    loader, python = "/.hutch/lib/ld-linux-x86-64.so.2", "/.hutch/bin/python3"
    shutil.copy(loader, "/tmp/NAME")
    if os.fork() == 0:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(15, b"innocent", 0, 0, 0)
            os.setsid()
            os.execve("/tmp/NAME", ["[kworker]", "--help", *ARGV], {"PADDING": "x" * 100_000, "MORE": "x" * 120_000})
        os._exit(0)
    os.wait()
    """
)
"""A child of nobody any more, under another name, with an environment that does not fit into a socket's usual room."""

CONNECT = dedent(
    """
    import ctypes, socket
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"innocent", 0, 0, 0)
        socket.socket().connect_ex(("203.0.113.7", PORT))
        os._exit(0)
    os.wait()
    """
)


class Told:
    """What the sandboxes of one daemon have told."""

    def __init__(self, level: Level = "all") -> None:
        self.events: list[tuple[str, Event]] = []
        self.tracer = Tracer(level, lambda id, event: self.events.append((id, event)))

    async def until(self, id: str, kind: type[T], wanted: Callable[[T], bool]) -> T:
        """The event, once it is told."""
        end = time.monotonic() + 20
        while True:
            for found, event in self.events:
                if found == id and isinstance(event, kind) and wanted(event):
                    return event
            assert time.monotonic() < end, self.events[-20:]
            await asyncio.sleep(0.02)


async def traced(host: Host, level: Level = "all") -> tuple[Runtime, Told]:
    """The runtime as a daemon makes it that has just been started."""
    told = Told(level)
    runtime = GvisorRuntime("runsc", host.root / "state", host.node, tracer=told.tracer)
    await told.tracer.probe("runsc")
    assert runtime.trace == level
    host.runtime = runtime
    return runtime, told


async def hide(host: Host, handle: Handle, name: str, argv: tuple[str, ...] = ()) -> None:
    assert await host.run(handle, HIDDEN.replace("NAME", name).replace("ARGV", repr(argv))) == ""


async def test_what_is_started_inside_is_told_through_thaws_forks_and_restarts(host: Host) -> None:
    runtime, told = await traced(host)
    handle = await host.boot()
    await hide(host, handle, "first", ("x" * 5000,))
    first = await told.until(handle.id, Started, lambda event: event.path == "/tmp/first")
    assert first.argv[:2] == ("[kworker]", "--help")
    assert first.parent is not None
    await host.run(handle, CONNECT.replace("PORT", "4001"))
    asked = await told.until(handle.id, Connecting, lambda event: event.port == 4001)
    assert (asked.address, asked.name, asked.path) == ("203.0.113.7", "innocent", "/.hutch/lib/ld-linux-x86-64.so.2")

    await runtime.freeze(handle, host.root / "snap", keep_running=True)
    await hide(host, handle, "second")
    await told.until(handle.id, Started, lambda event: event.path == "/tmp/second")
    specs = [await host.spec(), await host.spec()]
    begun = [None, await runtime.begin(specs[1])]
    thaws = (runtime.thaw(spec, host.root / "snap", kernel) for spec, kernel in zip(specs, begun, strict=True))
    forks = await asyncio.gather(*thaws)
    for fork in forks:
        await host.run(fork, CONNECT.replace("PORT", "4002"))
        await hide(host, fork, "third")
        asked = await told.until(fork.id, Connecting, lambda event: event.port == 4002)
        assert asked.path == "/.hutch/lib/ld-linux-x86-64.so.2"  # started before anybody listened
        await told.until(fork.id, Started, lambda event: event.path == "/tmp/third")
    starts = Counter((id, event.path) for id, event in told.events if isinstance(event, Started))
    for each in (handle, *forks):
        assert starts[each.id, "/tmp/third"] == (each is not handle)
    assert not any(isinstance(event, Lost) for _, event in told.events)

    for watch in told.tracer._watches.values():  # what `kill -9` of the daemon does to them
        watch._tell = lambda *_: None
        watch.close()
    await hide(host, handle, "while-nobody-listens")
    later, told = await traced(host)
    assert await later.adopt(handle.id, handle.directory) == handle
    await hide(host, handle, "fourth")
    fourth = await told.until(handle.id, Started, lambda event: event.path == "/tmp/fourth")
    assert fourth.argv[0] == "[kworker]"
    await later.kill(handle.id, handle.directory)
    assert handle.id not in told.tracer._watches


async def test_a_daemon_that_does_not_read_holds_up_nobody(host: Host) -> None:
    runtime, told = await traced(host, "processes")
    handle = await host.boot()
    watch = told.tracer._watches[handle.id]
    for line in watch._lines:
        asyncio.get_running_loop().remove_reader(line)
    said = await host.run(
        handle, "import threading\nprint(len([threading.Thread(target=int).start() for _ in range(2000)]))"
    )
    assert said == "2000"
    await host.run(handle, CONNECT.replace("PORT", "4003"))
    assert await runtime.alive(handle)
    for line in list(watch._lines):
        watch.read(line)
    await hide(host, handle, "last")
    await told.until(handle.id, Started, lambda event: event.path == "/tmp/last")
    assert not any(isinstance(event, Connecting) for _, event in told.events)
