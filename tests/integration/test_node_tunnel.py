"""The tunnel against a real TCP server in the sandbox's place."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from hutch.node.sockets import listen
from hutch.node.tunnel import Tunnel

T = TypeVar("T")
SANDBOX = "sbx_" + "a" * 22
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[int]:
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


class Running:
    """The tunnel on uvloop, as in the daemon (its transports differ from asyncio's in the corners that matter here).
    In a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.tunnel = Tunnel({SANDBOX: "127.0.0.1"}.get)
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.tunnel.start(listen(path, "root")), self._loop).result(30)

    def call(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)

    def connections(self) -> int:
        return self.call(lambda: self.tunnel.connections(SANDBOX))

    async def wait_for_none(self) -> None:
        """Wait until every connection is forgotten."""
        for _ in range(100):
            if self.connections() == 0:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("connections are left")

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.tunnel.stop(), self._loop).result(30)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "t")
    yield running
    running.stop()


@pytest.fixture
def connect(
    tunnel: Running, tmp_path: Path
) -> Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    async def connect(greeting: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "t"))
        writer.write(greeting)
        return reader, writer

    return connect


def greeting(port: int, sandbox: str = SANDBOX) -> bytes:
    return f"HUTCH/1 {sandbox} {port}\n".encode()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"<eof>")
    writer.close()


async def test_half_close_passes_through_and_the_answer_still_comes(connect) -> None:  # type: ignore[no-untyped-def]
    async with server(echo) as port:
        reader, writer = await connect(greeting(port) + b"sent along with the greeting ")
        assert await reader.readline() == b"OK\n"
        writer.write(b"and after")
        writer.write_eof()
        assert await reader.read() == b"sent along with the greeting and after<eof>"
        writer.close()


async def test_a_request_finished_before_the_port_answered_arrives_whole(connect) -> None:  # type: ignore[no-untyped-def]
    async with server(echo) as port:
        reader, writer = await connect(greeting(port) + b"x" * 3_000_000)
        writer.write_eof()
        assert await reader.readline() == b"OK\n"
        assert await reader.read() == b"x" * 3_000_000 + b"<eof>"
        writer.close()


async def test_200_mb_pass_unchanged_while_the_reader_is_slow(connect, tunnel: Running) -> None:  # type: ignore[no-untyped-def]
    block = os.urandom(1 << 20)

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(200):
            writer.write(block)
            await writer.drain()
        writer.close()

    async with server(send) as port:
        reader, writer = await connect(greeting(port))
        assert await reader.readline() == b"OK\n"
        await asyncio.sleep(0.3)  # nothing read: the tunnel must hold still, not buffer
        assert tunnel.call(lambda: tunnel.tunnel.buffered(SANDBOX)) < 4 << 20
        digest, size = hashlib.sha256(), 0
        while data := await reader.read(1 << 18):
            digest.update(data)
            size += len(data)
        writer.close()
    assert size == 200 << 20
    assert digest.digest() == hashlib.sha256(block * 200).digest()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"HUTCH/1 sbx_unknown 80\n", b"sandbox_not_found"),
        (b"HUTCH/2 x 80\n", b"invalid_request"),
        (greeting(0), b"invalid_request"),
        (greeting(65536), b"invalid_request"),
        (b"HUTCH/1 " + SANDBOX.encode() + b" 8\xff0\n", b"invalid_request"),
        (b"GET / HTTP/1.1\r\n\r\n", b"invalid_request"),
        (b"x" * 4096, b"invalid_request"),
    ],
)
async def test_a_bad_greeting_is_refused(connect, line: bytes, code: bytes) -> None:  # type: ignore[no-untyped-def]
    reader, writer = await connect(line)
    answer = await reader.readline()
    assert answer.startswith(b"ERR " + code + b" ")
    writer.close()


async def test_a_closed_port_says_so(connect) -> None:  # type: ignore[no-untyped-def]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reader, writer = await connect(greeting(unused.getsockname()[1]))
        assert (await reader.readline()).startswith(b"ERR port_closed ")
        writer.close()


async def test_connections_of_a_dead_sandbox_are_aborted_and_forgotten(connect, tunnel: Running) -> None:  # type: ignore[no-untyped-def]
    """The sandbox's end is reset: one that is closed in peace the host's kernel remembers for minutes."""
    ends: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError as error:
            ends.put_nowait(error)
        else:
            ends.put_nowait(None)
        writer.close()

    async with server(silent) as port:
        reader, writer = await connect(greeting(port))
        assert await reader.readline() == b"OK\n"
        assert tunnel.connections() == 1
        tunnel.call(lambda: tunnel.tunnel.drop(SANDBOX))
        assert await asyncio.wait_for(reader.read(), 2) == b""
        await tunnel.wait_for_none()
        assert isinstance(await asyncio.wait_for(ends.get(), 2), ConnectionResetError)
        writer.close()


async def test_an_abort_inside_reaches_the_client_and_one_outside_the_sandbox(connect, tunnel: Running) -> None:  # type: ignore[no-untyped-def]
    ended = asyncio.Event()

    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"!":
            writer.transport.abort()
        else:
            await reader.read()
            ended.set()
            writer.close()

    async with server(abort) as port:
        reader, writer = await connect(greeting(port))
        assert await reader.readline() == b"OK\n"
        writer.write(b"!")
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
        reader, writer = await connect(greeting(port))
        assert await reader.readline() == b"OK\n"
        writer.write(b"?")
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 2)
    await tunnel.wait_for_none()


async def test_a_client_that_vanished_does_not_hold_a_silent_port(connect, tunnel: Running) -> None:  # type: ignore[no-untyped-def]
    checked = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await checked.wait()  # takes no notice of the end of its input
        writer.close()

    async with server(deaf) as port:
        reader, writer = await connect(greeting(port))
        assert await reader.readline() == b"OK\n"
        writer.close()
        await tunnel.wait_for_none()
        checked.set()
        await asyncio.sleep(0.05)


async def test_while_a_sandbox_is_held_its_connections_are_ended_and_new_ones_wait(connect, tunnel: Running) -> None:  # type: ignore[no-untyped-def]
    async with server(echo) as port:
        open_before, writer = await connect(greeting(port))
        assert await open_before.readline() == b"OK\n"
        holding = tunnel.tunnel.holding(SANDBOX)
        tunnel.call(holding.__enter__)
        assert await open_before.read() == b""
        waiting, patient = await connect(greeting(port) + b"early ")
        _, gone = await connect(greeting(port))
        gone.close()
        line = asyncio.create_task(waiting.readline())
        assert await asyncio.wait({line}, timeout=0.3) == (set(), {line})
        tunnel.call(lambda: holding.__exit__(None, None, None))
        assert await line == b"OK\n"
        patient.write_eof()
        assert await waiting.read() == b"early <eof>"
        for each in (writer, patient):
            each.close()
    await tunnel.wait_for_none()


async def test_a_connection_that_is_being_opened_when_it_is_held_is_opened_after_it(
    connect,  # type: ignore[no-untyped-def]
    tunnel: Running,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        reader, writer = await connect(greeting(full.getsockname()[1]))  # its SYN is not answered
        await asyncio.sleep(0.1)
        holding = tunnel.tunnel.holding(SANDBOX)
        tunnel.call(holding.__enter__)
        full.accept()[0].close()
        tunnel.call(lambda: holding.__exit__(None, None, None))
        assert await asyncio.wait_for(reader.readline(), 5) == b"OK\n"
        writer.close()
