"""HTTP to a guest to which a node connects, over real sockets, on the server's event loop and on asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hutch.errors import DiskFull, GuestUnavailable, InvalidRequest, NodeUnavailable, SandboxNotRunning
from hutch.fleet import transport as transport_module
from hutch.fleet.dialing import LocalDialer
from hutch.fleet.transport import GuestTransport

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Handler = Callable[[Reader, Writer], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FULL = b'HTTP/1.1 507 No\r\nContent-Length: 36\r\n\r\n{"code": "disk_full", "message": ""}'
MIB = 1 << 20
_SENT_AHEAD = MIB // 4
"""Bytes that the host's kernel takes of a guest and has not delivered yet."""


class Node:
    """Its socket, and the guest to which it connects. `handler` is the guest on the connections that are made from then
    on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handler: Handler = answering(OK)
        self.says = b"OK\n"
        """What it answers; with a connection, where that is OK."""
        self.asked: list[bytes] = []
        self.open = 0
        self.port = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def answer(self, reader: Reader, writer: Writer) -> None:
        """One question."""
        with self.busy():
            self.asked.append(await reader.readline())
            if self.says != b"OK\n":
                writer.write(self.says)
                if self.says.startswith(b"OK"):
                    await asyncio.sleep(60)
                return writer.close()
            leash = writer.get_extra_info("socket").fileno()
            with (
                socket.create_connection(("127.0.0.1", self.port)) as made,
                socket.socket(fileno=os.dup(leash)) as asker,
            ):
                socket.send_fds(asker, [self.says], [made.fileno()])
                await reader.read()
        writer.close()

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """One connection to the guest."""
        self.open += 1
        try:
            with self.busy():
                await self.handler(reader, writer)
        finally:
            self.open -= 1
            writer.close()

    @contextmanager
    def busy(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            yield
        self.tasks.discard(task)

    async def closed(self) -> None:
        """Wait until the other side has closed every connection."""
        async with asyncio.timeout(5):
            while self.open:
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "dial.sock")
    listener = socket.create_server(("127.0.0.1", 0))
    # Else it is up to 4 MiB, by what the host's kernel remembers of earlier connections.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENT_AHEAD)
    guests = await asyncio.start_server(made.serve, sock=listener)
    made.port = listener.getsockname()[1]
    asked = await asyncio.start_unix_server(made.answer, made.path)
    yield made
    for server in (asked, guests):
        server.close()
    for task in list(made.tasks):
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def guest(node: Node) -> AsyncIterator[GuestTransport]:
    made = GuestTransport(LocalDialer(node.path))
    yield made
    await made.aclose()
    assert made._pool.active == 0
    gc.collect()  # a socket left open would warn, and warnings are errors


async def request_of(reader: Reader) -> bytes:
    """The head of the next request."""
    return await reader.readuntil(b"\r\n\r\n")


async def body_of(reader: Reader, head: bytes) -> bytes:
    """Its body."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return await reader.readexactly(int(line.split(b":")[1]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


def answering(*answers: bytes, then_close: bool = False, heads: list[bytes] | None = None) -> Handler:
    """A guest that answers each request with these bytes."""

    async def handle(reader: Reader, writer: Writer) -> None:
        while True:
            head = await request_of(reader)
            if heads is not None:
                heads.append(head + await body_of(reader, head))
            else:
                await body_of(reader, head)
            for piece in answers:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if then_close:
                return

    return handle


async def pieces(count: int, size: int, sent: list[int] | None = None) -> AsyncIterator[bytes]:
    for _ in range(count):
        if sent is not None:
            sent.append(size)
        yield bytes(size)
        await asyncio.sleep(0)


async def call(guest: GuestTransport, method: str = "GET", path: str = "/x", **options: Any) -> bytes:
    answer = await guest.open("sbx_1", "token", method, path, **options)
    return await answer.body(8 * MIB)


# ---- what is said ----


async def test_a_request_says_what_it_must_and_nothing_else(node: Node, guest: GuestTransport) -> None:
    heads: list[bytes] = []
    node.handler = answering(OK, heads=heads)
    query = {"path": "/ä b&c", "user": None}
    assert await call(guest, "POST", "/x", query=query, headers={"Content-Type": "a/b"}, body=b"in") == b"hi"
    assert node.asked == [b"HUTCH/2 sbx_1 49983\n"]
    assert heads == [
        b"POST /x?path=%2F%C3%A4+b%26c HTTP/1.1\r\nHost: sbx_1\r\nX-Access-Token: token\r\nContent-Length: 2\r\n"
        b"Content-Type: a/b\r\n\r\nin"
    ]


@pytest.mark.parametrize("length", [None, 300_000])
async def test_an_upload_is_framed_by_its_length_if_that_is_known(
    node: Node, guest: GuestTransport, length: int | None
) -> None:
    heads: list[bytes] = []
    node.handler = answering(OK, heads=heads)

    async def body() -> AsyncIterator[bytes]:
        yield b""  # as a chunk it would mean the end
        async for piece in pieces(3, 100_000):
            yield piece

    assert await call(guest, "PUT", body=body(), length=length) == b"hi"
    head, _, sent = heads[0].partition(b"\r\n\r\n")
    assert (b"Content-Length: 300000" if length else b"Transfer-Encoding: chunked") in head
    assert len(sent) == 300_000
    assert await call(guest) == b"hi"
    assert len(node.asked) == 1


@pytest.mark.parametrize("length", [5, 50])
async def test_an_upload_of_another_length_than_was_announced_is_cut(
    node: Node, guest: GuestTransport, length: int
) -> None:
    with pytest.raises(GuestUnavailable):
        await call(guest, "PUT", body=pieces(1, 10), length=length)
    await node.closed()


async def test_what_the_body_raises_comes_out_and_cuts_the_upload(node: Node, guest: GuestTransport) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        raise InvalidRequest("too much")

    with pytest.raises(InvalidRequest, match="too much"):
        await call(guest, "PUT", body=body())
    await node.closed()


@pytest.mark.parametrize("path", ["/a b", "/a\r\nX: y", "/ä", "/a HTTP/1.1\r\n\r\nGET /"])
async def test_nothing_can_be_smuggled_into_a_head(node: Node, guest: GuestTransport, path: str) -> None:
    with pytest.raises(GuestUnavailable):
        await call(guest, path=path)
    with pytest.raises(GuestUnavailable):
        await call(guest, headers={"X": path + "\n"})


# ---- the node ----


@pytest.mark.parametrize(
    ("line", "error", "says"),
    [
        (b"ERR sandbox_not_found no such sandbox\n", SandboxNotRunning, "does not run"),
        (b"ERR port_closed nothing listens\n", GuestUnavailable, "nothing listens"),
        (b"ERR\n", GuestUnavailable, "no answer"),
        (b"ERR cut", NodeUnavailable, "does not answer"),
        (b"x" * 100_000, NodeUnavailable, "does not answer"),
        (b"NO\n", GuestUnavailable, "sbx_1"),
    ],
)
async def test_refusals_of_the_node(
    node: Node, guest: GuestTransport, line: bytes, error: type[Exception], says: str
) -> None:
    node.says = line
    with pytest.raises(error, match=says):
        await call(guest)
    await node.closed()


async def test_a_node_that_is_not_there(tmp_path: Path) -> None:
    guest = GuestTransport(LocalDialer(tmp_path / "nothing.sock"))
    with pytest.raises(NodeUnavailable):
        await call(guest)
    await guest.aclose()


async def test_a_node_that_says_nothing(node: Node, guest: GuestTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hutch.fleet.transport._CONNECT_TIMEOUT", 0.05)
    node.says = b"OK"
    node.handler = lambda reader, writer: asyncio.sleep(60)
    with pytest.raises(NodeUnavailable, match="does not answer"):
        await call(guest)


# ---- answers ----


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhi",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi",
        b"HTTP/1.1 101 Switching\r\n\r\nhi",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\xff" * 50,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_guest_that_hangs_up_or_speaks_no_http(
    node: Node, guest: GuestTransport, answer: bytes, method: str
) -> None:
    node.handler = answering(answer, then_close=True)
    with pytest.raises(GuestUnavailable):
        await call(guest, method)
    await node.closed()
    assert len(node.asked) == 1


async def test_an_answer_byte_by_byte_and_its_interim_ones(node: Node, guest: GuestTransport) -> None:
    text = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + CHUNKED + b"2;e=1\r\nhi\r\n1\r\n!\r\n0\r\nT: z\r\n\r\n"
    node.handler = answering(*(text[at : at + 1] for at in range(len(text))))
    for _ in range(2):
        answer = await guest.open("sbx_1", "token", "GET", "/x")
        assert answer.headers == {"transfer-encoding": "chunked"}
        assert await answer.body(100) == b"hi!"
    assert len(node.asked) == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nall of it", b"all of it"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", b"hi"),
        (OK + OK, b"hi"),
        (OK + b"garbage", b"hi"),
    ],
)
async def test_answers_that_end_their_connection(node: Node, guest: GuestTransport, answer: bytes, body: bytes) -> None:
    node.handler = answering(answer, then_close=True)
    for count in (1, 2):
        assert await call(guest) == body
        await node.closed()
        assert len(node.asked) == count


async def test_an_answer_without_a_body(node: Node, guest: GuestTransport) -> None:
    node.handler = answering(b"HTTP/1.1 204 No Content\r\nX:\r\n\r\n")
    assert await call(guest, "DELETE") == await call(guest, "DELETE") == b""
    assert len(node.asked) == 1


async def test_redirects_cookies_and_encodings_are_the_callers_affair(node: Node, guest: GuestTransport) -> None:
    heads: list[bytes] = []
    head = (
        b"HTTP/1.1 307 Go\r\nLocation: /y\r\nSet-Cookie: a=b\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi"
    )
    node.handler = answering(head, heads=heads)
    for _ in range(2):
        answer = await guest.open("sbx_1", "token", "GET", "/x")
        assert (answer.status, await answer.body(10)) == (307, b"hi")
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 60_000),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (CHUNKED, b"0" * 60_000),
        (CHUNKED + b"1;", b"x" * 60_000),
        (CHUNKED + b"0\r\nTrailer: ", b"x" * 60_000),
    ],
    ids=["header", "headers", "interim", "size", "extension", "trailer"],
)
async def test_a_head_without_end_is_cut_off(node: Node, guest: GuestTransport, start: bytes, again: bytes) -> None:
    sent = 0

    async def flood(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(start)
        while sent < 64 * MIB:
            writer.write(again)
            sent += len(again)
            await writer.drain()

    node.handler = flood
    with pytest.raises(GuestUnavailable):
        await call(guest)
    await node.closed()
    assert sent < 4 * MIB


async def test_an_answer_of_too_great_length(node: Node, guest: GuestTransport) -> None:
    node.handler = answering(CHUNKED, *[b"10000\r\n" + bytes(1 << 16) + b"\r\n"] * 100)
    answer = await guest.open("sbx_1", "token", "GET", "/x")
    with pytest.raises(GuestUnavailable, match="length"):
        await answer.body(1000)
    await node.closed()


async def test_silence(node: Node, guest: GuestTransport) -> None:
    node.handler = answering(b"")
    with pytest.raises(GuestUnavailable, match="does not answer"):
        await call(guest, read_timeout=0.05)
    await node.closed()
    node.handler = answering(CHUNKED + b"1\r\nx\r\n")
    with pytest.raises(GuestUnavailable):
        await call(guest, read_timeout=0.05)
    await node.closed()


async def test_a_guest_that_reads_nothing(node: Node, guest: GuestTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "_WRITE_TIMEOUT", 0.1)
    node.handler = lambda reader, writer: asyncio.sleep(60)
    sent: list[int] = []
    with pytest.raises(GuestUnavailable, match="does not answer"):
        await call(guest, "PUT", body=pieces(1000, MIB, sent))
    assert sum(sent) < 8 * MIB  # nobody has gathered what could not be sent
    with pytest.raises(GuestUnavailable, match="does not answer"):
        await call(guest, "PUT", body=bytes(8 * MIB))


# ---- great bodies ----


async def test_a_great_upload_goes_through_without_being_held(node: Node, guest: GuestTransport) -> None:
    got = 0

    async def swallow(reader: Reader, writer: Writer) -> None:
        nonlocal got
        await request_of(reader)
        while got < 256 * MIB:
            got += len(await reader.read(MIB))
        writer.write(OK)

    node.handler = swallow
    tracemalloc.start()
    try:
        assert await call(guest, "PUT", body=pieces(256, MIB), length=256 * MIB) == b"hi"
        assert tracemalloc.get_traced_memory()[1] < 24 * MIB
    finally:
        tracemalloc.stop()


async def test_a_reader_who_is_slow_holds_the_guest_back(node: Node, guest: GuestTransport) -> None:
    sent = 0

    async def pour(reader: Reader, writer: Writer) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        while sent < 64 * MIB:
            writer.write(bytes(1 << 16))
            sent += 1 << 16
            await writer.drain()
        writer.write((await request_of(reader))[:0] + OK)

    node.handler = pour
    answer = await guest.open("sbx_1", "token", "GET", "/x")
    await asyncio.sleep(0.2)
    assert sent < 4 * MIB
    assert sum([len(chunk) async for chunk in answer.chunks()]) == 64 * MIB
    assert await call(guest) == b"hi"  # and its connection still serves
    assert len(node.asked) == 1


# ---- refused uploads ----


@pytest.mark.parametrize("reads_on", [0, 4 * MIB])
@pytest.mark.parametrize("length", [None, 64 * MIB])
async def test_a_refusal_wins_over_the_broken_pipe(
    node: Node, guest: GuestTransport, reads_on: int, length: int | None
) -> None:
    async def refuse(reader: Reader, writer: Writer) -> None:
        await request_of(reader)
        writer.write(FULL)
        await writer.drain()
        read = 0
        while read < reads_on and (data := await reader.read(1 << 16)):
            read += len(data)

    node.handler = refuse
    sent: list[int] = []
    with pytest.raises(DiskFull):
        await call(guest, "PUT", body=pieces(64, MIB, sent), length=length)
    assert sum(sent) < 16 * MIB
    await node.closed()


async def test_a_refusal_ends_the_wait_for_a_guest_that_reads_no_more(node: Node, guest: GuestTransport) -> None:
    async def refuse(reader: Reader, writer: Writer) -> None:
        await request_of(reader)
        await asyncio.sleep(0.1)
        writer.write(FULL)
        await asyncio.sleep(60)

    node.handler = refuse
    for body in (pieces(64, MIB), bytes(64 * MIB)):
        with pytest.raises(DiskFull):
            await call(guest, "PUT", body=body)


async def test_a_refusal_is_seen_although_this_side_was_busy(node: Node, guest: GuestTransport) -> None:
    """All has happened between two pieces: the refusal has come, and the socket's other end is closed."""
    refused = asyncio.Event()

    async def refuse(reader: Reader, writer: Writer) -> None:
        await request_of(reader)
        await reader.read(1)
        writer.write(FULL)
        writer.close()
        refused.set()

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await refused.wait()
        time.sleep(0.02)
        for _ in range(20):
            yield bytes(MIB)

    node.handler = refuse
    for _ in range(5):
        refused.clear()
        with pytest.raises(DiskFull):
            await call(guest, "PUT", body=body())


async def test_an_upload_whose_guest_dies(node: Node, guest: GuestTransport) -> None:
    async def die(reader: Reader, writer: Writer) -> None:
        await request_of(reader)
        await reader.read(1000)

    node.handler = die
    with pytest.raises(GuestUnavailable, match="hung up"):
        await call(guest, "PUT", body=pieces(64, MIB))


# ---- connections that are kept ----


async def test_connections_are_kept_for_each_sandbox(node: Node, guest: GuestTransport) -> None:
    for sandbox in ("sbx_1", "sbx_2", "sbx_1", "sbx_2"):
        assert await (await guest.open(sandbox, "token", "GET", "/x")).body(10) == b"hi"
    assert node.asked == [b"HUTCH/2 sbx_1 49983\n", b"HUTCH/2 sbx_2 49983\n"]
    await asyncio.gather(*(call(guest) for _ in range(20)))
    assert node.open <= 21
    await guest.aclose()
    await node.closed()
    with pytest.raises(NodeUnavailable):
        await call(guest)


async def test_a_way_that_was_made_ahead_is_taken_by_the_next_call(node: Node, guest: GuestTransport) -> None:
    await guest.reach("sbx_1")
    await guest.reach("sbx_1")
    await call(guest)
    assert node.asked == [b"HUTCH/2 sbx_1 49983\n"]
    for _ in range(2):  # a call that comes while it is made waits for it; the next one does not
        ahead = asyncio.create_task(guest.reach("sbx_2"))
        await asyncio.sleep(0)
        assert await (await guest.open("sbx_2", "token", "POST", "/x", body=b"")).body(10) == b"hi"
        await ahead
    assert node.asked[1:] == [b"HUTCH/2 sbx_2 49983\n"]
    node.says = b"ERR guest_unavailable it is not there\n"
    refused = asyncio.create_task(guest.reach("sbx_3"))
    await asyncio.sleep(0)
    with pytest.raises(GuestUnavailable, match="it is not there"):
        await guest.open("sbx_3", "token", "GET", "/x")
    with pytest.raises(GuestUnavailable, match="it is not there"):
        await refused
    assert len(node.asked) == 4
    await guest.aclose()
    with pytest.raises(NodeUnavailable):
        await guest.reach("sbx_4")


async def test_no_more_are_kept_than_may_be_and_none_for_too_long(node: Node, guest: GuestTransport) -> None:
    guest._pool._max_idle = 3
    await asyncio.gather(*(call(guest) for _ in range(10)))
    async with asyncio.timeout(5):
        while node.open > 3:
            await asyncio.sleep(0.01)
    guest._pool._keep = 0.05
    await asyncio.gather(*(call(guest) for _ in range(3)))
    await node.closed()
    assert not guest._pool._idle and not guest._pool._idle_at


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_kept_connection_that_has_ended_is_not_used(
    node: Node, guest: GuestTransport, method: str, busy: bool
) -> None:
    """Also when its end has come and this side has not looked yet."""
    closed = asyncio.Event()

    async def once(reader: Reader, writer: Writer) -> None:
        await body_of(reader, await request_of(reader))
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        closed.set()

    node.handler = once
    for _ in range(3):
        closed.clear()
        assert await call(guest, method, body=b"in") == b"hi"
        await closed.wait()
        if not busy:
            await asyncio.sleep(0.02)


async def test_only_what_may_be_repeated_is_repeated(node: Node, guest: GuestTransport) -> None:
    """The guest takes a request over a kept connection and closes it without a word."""
    heads: list[bytes] = []

    async def second_time_nothing(reader: Reader, writer: Writer) -> None:
        for _ in range(2):
            head = await request_of(reader)
            heads.append(head[:4] + await body_of(reader, head))
            if len(heads) % 2:
                writer.write(OK)
            else:
                return

    node.handler = second_time_nothing
    assert await call(guest) == b"hi"
    with pytest.raises(GuestUnavailable):
        await call(guest, "POST", body=b"run")
    assert heads == [b"GET ", b"POSTrun"]
    assert await call(guest) == b"hi"
    assert await call(guest) == b"hi"
    assert heads == [b"GET ", b"POSTrun", b"GET ", b"GET ", b"GET "]


@pytest.mark.parametrize("unasked", [OK, b"x" * 1000])
async def test_who_speaks_unasked_is_closed(node: Node, guest: GuestTransport, unasked: bytes) -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        await body_of(reader, await request_of(reader))
        writer.write(OK)
        await asyncio.sleep(0.05)
        while True:
            writer.write(unasked)
            await writer.drain()

    node.handler = talk
    assert await call(guest) == b"hi"
    await node.closed()
    assert not guest._pool._idle


@pytest.mark.parametrize("how", ["close", "leave", "cancel"])
async def test_an_abandoned_answer_closes_its_connection(node: Node, guest: GuestTransport, how: str) -> None:
    node.handler = answering(CHUNKED, b"1\r\nx\r\n")
    answer = await guest.open("sbx_1", "token", "GET", "/x")
    chunks = answer.chunks()
    if how != "close":
        assert await anext(chunks) == b"x"
    if how == "leave":
        await chunks.aclose()
    elif how == "cancel":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(chunks)
    else:
        await answer.aclose()
    await node.closed()
    assert guest._pool.active == 0
    await answer.aclose()
    assert guest._pool.active == 0


async def test_a_call_that_is_cancelled_closes_its_connection(node: Node, guest: GuestTransport) -> None:
    node.handler = lambda reader, writer: reader.read(-1)  # type: ignore[assignment, return-value]
    for body in (None, pieces(1 << 30, 1)):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await call(guest, "PUT", body=body)
        await node.closed()


async def test_closing_ends_what_is_going_on(node: Node, guest: GuestTransport) -> None:
    node.handler = answering(CHUNKED, b"1\r\nx\r\n")
    answer = await guest.open("sbx_1", "token", "GET", "/x")
    reading = asyncio.create_task(answer.body(100))
    await asyncio.sleep(0.02)
    await guest.aclose()
    with pytest.raises(GuestUnavailable):
        await reading
    await node.closed()


@pytest.mark.parametrize("steps", range(8))
async def test_a_call_may_be_cancelled_at_any_step(node: Node, guest: GuestTransport, steps: int) -> None:
    task = asyncio.create_task(call(guest))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert guest._pool.active == 0
    async with asyncio.timeout(2):
        await guest.aclose()
    assert not guest._pool._all
    await node.closed()
