"""The port with TLS, on the event loop that serves it: who is taken, for how long, and what becomes of connections."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from hutch.gateway import Gateway, Names, SecureDoor, inbound, secure
from hutch.tls import FreshContext, PemFiles, context
from hutch.tls.authority import keep_certificate

HOST = "box.test"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Stand:
    """A gateway with an API of a few lines behind it; no sandboxes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.seen: list[bytes] = []
        self.lost = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def api(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says `ok`; `/large` is without end, `/echo` another protocol, which ends at `bye`."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(head)
                if head.startswith(b"GET /large"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
                    while True:
                        writer.write(bytes(1 << 16))
                        await writer.drain()
                if head.startswith(b"GET /echo"):
                    writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
                    while (line := await reader.readline()) != b"bye\n":
                        writer.write(line)
                    return writer.close()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        self.lost.set()
        writer.close()

    async def open(self, tls: bool = True) -> Streams:
        trusting = ssl.create_default_context(cafile=str(self.root / "authority" / "ca.pem"))
        options: dict[str, Any] = {"ssl": trusting, "server_hostname": f"api.{HOST}"} if tls else {}
        streams = await asyncio.open_connection("127.0.0.1", self.port, **options)
        self.writers.append(streams[1])
        return streams


@asynccontextmanager
async def standing(root: Path, most: int = 100) -> AsyncIterator[Stand]:
    stand = Stand(root)
    served = root / "served.pem"
    shutil.copy(keep_certificate(root / "authority", HOST), served)
    api = await asyncio.start_server(stand.api, "127.0.0.1", 0)
    plain, listener = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    door = SecureDoor(listener, FreshContext(PemFiles(served, served), HOST), Names(HOST), api.sockets[0])
    gateway = Gateway(cast(Any, None), plain, most, door)
    await gateway.start()
    stand.port = listener.getsockname()[1]
    try:
        yield stand
    finally:
        for writer in stand.writers:
            writer.transport.abort()
        await gateway.stop()
        api.close()
        await asyncio.sleep(0.05)  # until all of them are closed


def on_uvloop(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(work, 60))


async def ask(streams: Streams, path: str = "/", host: str = f"api.{HOST}", *fields: str) -> bytes:
    reader, writer = streams
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode())
    return await reader.readuntil(b"\r\n\r\n")


def test_one_connection_after_the_other_goes_where_its_host_says(tmp_path: Path) -> None:
    async def work() -> None:
        async with standing(tmp_path) as stand:
            reader, writer = streams = await stand.open()
            for _ in range(2):
                assert b" 200 " in await ask(streams, "/", f"api.{HOST}", "X-Forwarded-For: 1.2.3.4")
                assert await reader.readexactly(2) == b"ok"
            assert b"X-Forwarded-For: 127.0.0.1\r\n" in stand.seen[0] and b"1.2.3.4" not in stand.seen[0]
            for host, status in ((f"www.{HOST}", b" 404 "), ("other.example", b" 421 "), (f"sandbox.{HOST}", b" 400 ")):
                head = await ask(streams, "/", host)
                assert status in head
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            assert b" 200 " in await ask(streams)
            writer.close()

    on_uvloop(work())


def test_whoever_does_not_shake_hands_or_does_not_ask_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure, "HANDSHAKE_SECONDS", 0.3)
    monkeypatch.setattr(inbound, "HEAD_SECONDS", 0.3)

    async def work() -> None:
        async with standing(tmp_path) as stand:
            silent, _ = await stand.open(tls=False)
            assert await silent.read() == b""
            plain, sender = await stand.open(tls=False)
            sender.write(b"GET / HTTP/1.1\r\nHost: api.box.test\r\n\r\n")
            with suppress(ConnectionError):
                assert b"HTTP" not in await plain.read()
            slow, writer = await stand.open()
            writer.write(b"GET / HTTP/1.1\r\nHost: ")
            with suppress(ConnectionError, ssl.SSLError):
                assert await slow.read() == b""
            assert stand.seen == []

    on_uvloop(work())


def test_connections_that_shake_hands_count(tmp_path: Path) -> None:
    async def work() -> None:
        async with standing(tmp_path, most=3) as stand:
            waiting = [await stand.open(tls=False) for _ in range(3)]
            while True:  # until the three have been taken
                reader, writer = await stand.open(tls=False)
                try:
                    assert await asyncio.wait_for(reader.read(), 0.5) == b""
                    break
                except TimeoutError:
                    writer.close()
            for _, writer in waiting:
                writer.close()

    on_uvloop(work())


def test_a_client_that_goes_takes_its_request_with_it_and_one_that_does_not_read_holds_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with standing(tmp_path) as stand:
            reader, writer = streams = await stand.open()
            await ask(streams, "/large")
            for _ in range(64):
                assert len(await reader.readexactly(1 << 16)) == 1 << 16
            writer.transport.abort()
            await stand.lost.wait()

    on_uvloop(work())


def test_another_protocol_passes_both_ways_and_its_end_arrives(tmp_path: Path) -> None:
    async def work() -> None:
        async with standing(tmp_path) as stand:
            reader, writer = streams = await stand.open()
            assert b" 101 " in await ask(streams, "/echo", f"api.{HOST}", "Connection: upgrade", "Upgrade: echo")
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            writer.write(b"bye\n")
            assert await reader.read() == b""

    on_uvloop(work())


def test_connections_that_are_open_outlive_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "LOOK_SECONDS", 0.05)

    async def work() -> None:
        async with standing(tmp_path) as stand:
            streams = await stand.open()
            first = streams[1].get_extra_info("peercert")["serialNumber"]
            os.unlink(tmp_path / "authority" / "served.pem")
            keep_certificate(tmp_path / "authority", HOST).replace(tmp_path / "served.pem")
            while True:
                _, other = await stand.open()
                if other.get_extra_info("peercert")["serialNumber"] != first:
                    break
                other.close()
                await asyncio.sleep(0.05)
            assert b" 200 " in await ask(streams)

    on_uvloop(work())
