"""Connections that the node makes and hands over, between real sockets: a TCP server stands in the sandbox's place. The
node is on uvloop, in a thread; who asks it is on the server's loop and on asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from hutch.errors import HutchError, NodeUnavailable, PortClosed, SandboxNotRunning
from hutch.fleet import ports
from hutch.fleet.dialing import LocalDialer
from hutch.fleet.ports import open_port
from hutch.node.dialing import Dialer
from hutch.node.sockets import listen

T = TypeVar("T")
SANDBOX = "sbx_" + "a" * 22
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Node:
    """Its dialer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dialer = Dialer({SANDBOX: "127.0.0.1"}.get)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.dialer.start(listen(path, "root"), os.geteuid()), self._loop).result(30)

    def call(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def connections(self) -> int:
        return self.call(lambda: self.dialer.connections(SANDBOX))

    async def wait_for_none(self) -> None:
        """Wait until every connection is forgotten."""
        async with asyncio.timeout(10):
            while self.connections():
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.dialer.stop(), self._loop).result(30)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), self._loop).result(30)

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def connect(self, port: int) -> Streams:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        make = lambda: asyncio.StreamReaderProtocol(reader)  # noqa: E731
        transport, protocol = await LocalDialer(self.path).connect(SANDBOX, port, make, 10)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    running = Node(tmp_path / "d")
    yield running
    running.end()


@asynccontextmanager
async def inside(serve: Serve) -> AsyncIterator[int]:
    """A port in the sandbox."""
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


class Ends:
    """A port that reads, and remembers how each connection ended."""

    def __init__(self) -> None:
        self.come: asyncio.Queue[type[BaseException] | None] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            self.come.put_nowait(None)
        except OSError as error:
            self.come.put_nowait(type(error))
        writer.close()

    async def next(self) -> type[BaseException] | None:
        return await asyncio.wait_for(self.come.get(), 10)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write(b"<eof>")
    writer.close()


def descriptors() -> list[str]:
    """Of the node and of who asks it: what this process has open but for what the loops have for themselves."""
    gc.collect()
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(each))
    return sorted(each for each in found if each.startswith("socket:"))


async def test_bytes_pass_both_ways_and_half_an_end_is_half_an_end(node: Node) -> None:
    async with inside(echo) as port:
        reader, writer = await node.connect(port)
        writer.write(b"x" * 3_000_000)
        writer.write_eof()
        assert await reader.read() == b"x" * 3_000_000 + b"<eof>"
        writer.close()
        await node.wait_for_none()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"HUTCH/2 sbx_unknown 80\n", b"sandbox_not_found"),
        (b"HUTCH/1 " + SANDBOX.encode() + b" 80\n", b"invalid_request"),
        (b"HUTCH/2 " + SANDBOX.encode() + b" 0\n", b"invalid_request"),
        (b"HUTCH/2 " + SANDBOX.encode() + b" 65536\n", b"invalid_request"),
        (b"HUTCH/2 " + SANDBOX.encode() + b" 8\xff0\n", b"invalid_request"),
        (b"HUTCH/2 " + SANDBOX.encode() + b" 80\nand more", b"invalid_request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"invalid_request"),
        (b"x" * 4096, b"invalid_request"),
    ],
)
async def test_a_bad_question_is_refused(node: Node, line: bytes, code: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(node.path))
    writer.write(line)
    assert (await reader.read()).startswith(b"ERR " + code + b" ")
    writer.close()


async def test_refusals_are_errors(node: Node, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(PortClosed):
            await node.connect(unused.getsockname()[1])
    with pytest.raises(SandboxNotRunning):
        await LocalDialer(node.path).connect("sbx_other", 80, asyncio.Protocol, 10)
    with pytest.raises(NodeUnavailable):
        await LocalDialer(tmp_path / "nobody").connect(SANDBOX, 80, asyncio.Protocol, 10)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_dead_sandboxs_connections_are_reset_at_both_ends(node: Node, reads: bool) -> None:
    """Whoever holds them, and whether or not they read: what is closed in peace the host's kernel remembers for
    minutes, and looks like a proper end."""
    ends = Ends()
    async with inside(ends.serve) as port:
        reader, writer = await node.connect(port)
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        assert node.connections() == 1
        node.call(lambda: node.dialer.drop(SANDBOX))
        assert await ends.next() is ConnectionResetError
        async with asyncio.timeout(10):
            while not writer.transport.is_closing():
                await asyncio.sleep(0.01)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        await node.wait_for_none()


@pytest.mark.parametrize("how", ["close", "abort", "killed"])
async def test_the_end_of_who_asked_is_the_connections(node: Node, how: str) -> None:
    ends = Ends()
    async with inside(ends.serve) as port:
        if how == "killed":  # before it has taken the descriptor: both are closed by the kernel
            with socket.socket(socket.AF_UNIX) as asker:
                asker.connect(str(node.path))
                asker.send(f"HUTCH/2 {SANDBOX} {port}\n".encode())
                await asyncio.to_thread(select.select, [asker], [], [], 10)
        else:
            _, writer = await node.connect(port)
            writer.write(b"all of this arrives")
            writer.close() if how == "close" else writer.transport.abort()
        assert await ends.next() is None
        await node.wait_for_none()


async def test_a_node_that_ends_takes_its_connections_with_it(node: Node) -> None:
    ends = Ends()
    async with inside(ends.serve) as port:
        _, writer = await node.connect(port)
        node.stop()
        assert await ends.next() is ConnectionResetError
        async with asyncio.timeout(10):
            while not writer.transport.is_closing():
                await asyncio.sleep(0.01)


async def test_many_at_once_of_which_some_are_given_up_leave_nothing_open(node: Node) -> None:
    async with inside(echo) as port:
        await asyncio.sleep(0)
        before = descriptors()
        asking = [asyncio.create_task(node.connect(port)) for _ in range(64)]
        for number in range(0, 64, 2):
            await asyncio.sleep(0)
            asking[number].cancel()  # at different points of its way
        made = [each for each in await asyncio.gather(*asking, return_exceptions=True) if isinstance(each, tuple)]
        assert len(made) >= 32
        for number, (reader, writer) in enumerate(made):
            writer.write(b"%d" % number)
            writer.write_eof()
            assert await reader.read() == b"%d<eof>" % number
            writer.close()
        await node.wait_for_none()
        async with asyncio.timeout(10):
            while descriptors() != before:
                await asyncio.sleep(0.01)


async def test_while_a_sandbox_is_held_its_connections_are_ended_and_new_ones_wait(node: Node) -> None:
    async with inside(echo) as port:
        reader, _ = await node.connect(port)
        holding = node.dialer.holding(SANDBOX)
        node.call(holding.__enter__)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        waiting, gone = (asyncio.create_task(node.connect(port)) for _ in range(2))
        assert await asyncio.wait({waiting, gone}, timeout=0.3) == (set(), {waiting, gone})
        gone.cancel()
        node.call(lambda: holding.__exit__(None, None, None))
        reader, writer = await waiting
        writer.write_eof()
        assert await reader.read() == b"<eof>"
        writer.close()
    await node.wait_for_none()


async def test_a_connection_that_is_being_opened_when_it_is_held_is_opened_after_it(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        asking = asyncio.create_task(node.connect(full.getsockname()[1]))  # its SYN is not answered
        await asyncio.sleep(0.1)
        holding = node.dialer.holding(SANDBOX)
        node.call(holding.__enter__)
        full.accept()[0].close()
        node.call(lambda: holding.__exit__(None, None, None))
        _, writer = await asyncio.wait_for(asking, 10)
        writer.close()
    await node.wait_for_none()


async def test_the_end_of_a_freeze_is_waited_for_and_not_for_ever(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_HANDSHAKE_TIMEOUT", 0.05)
    async with inside(echo) as port:
        holding = node.dialer.holding(SANDBOX)
        node.call(holding.__enter__)
        asking = asyncio.create_task(open_port(LocalDialer(node.path), SANDBOX, port, asyncio.Protocol))
        assert await asyncio.wait({asking}, timeout=0.2) == (set(), {asking})
        monkeypatch.setattr(ports, "_FREEZE_TIMEOUT", 0.05)
        with pytest.raises(HutchError) as error:
            await open_port(LocalDialer(node.path), SANDBOX, port, asyncio.Protocol)
        assert isinstance(error.value, NodeUnavailable)
        node.call(lambda: holding.__exit__(None, None, None))
        (await asking).abort()
    await node.wait_for_none()
