"""Both sides of a connection, without the network: what is held back, what counts, and how it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hutch.control.ports import Door
from hutch.gateway.access import Entry
from hutch.gateway.flow import HIGH_WATER
from hutch.gateway.inbound import Inbound
from hutch.gateway.outbound import Outbound
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Place
from hutch.http1.heads import Request

ID = "sbx_" + "a" * 22
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
UPGRADE = HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Wire(asyncio.Transport):
    """What was written, by a peer that reads when it is told to."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self.sent = bytearray()
        self.waiting = 0
        self.reads = True
        self.reading = True
        self.ending = ""
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += data
        if not self.reads:
            before, self.waiting = self.waiting, self.waiting + len(data)
            if before <= HIGH_WATER < self.waiting:
                self._protocol.pause_writing()

    def read_all(self) -> None:
        self.reads, waited, self.waiting = True, self.waiting, 0
        if waited > HIGH_WATER:
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

    def is_closing(self) -> bool:
        return self.ending in ("closed", "cut")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ending = "finished"

    def close(self) -> None:
        self._end("closed")

    def abort(self) -> None:
        self._end("cut")

    def _end(self, how: str) -> None:
        if not self.is_closing():
            self.ending = how
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)


class Gateway:
    """Opens ways to sandboxes that are wires, too."""

    def __init__(self) -> None:
        self.ways: list[tuple[Outbound, Wire]] = []
        self.touched = 0
        self.recorded: list[bytes] = []
        self.refusal: Refusal | None = None
        self.runs = True
        self.known = True
        self.published = False
        self.ports = cast(Any, SimpleNamespace(running=self._running))

    def joined(self, _: Inbound) -> bool:
        return True

    def left(self, _: Inbound) -> None: ...

    def touch(self, _: str) -> None:
        self.touched += 1

    async def _running(self, _: Door) -> bool:
        return self.runs

    async def route(self, request: Request, place: Place | None) -> tuple[Place, Door, Entry]:
        if self.refusal is not None:
            raise self.refusal
        door = Door(ID, "org", True, True, True, True, None, "t", "t")
        return Place(ID, 8000), door, Entry(request, self.known, self.published)

    async def record(self, door: Door, request: Request, message: dict[str, Any] | None) -> None:
        self.recorded.append(request.target)

    async def connect(self, door: Door, place: Place, upstream: Outbound, known: bool) -> str:
        self.ways.append((upstream, Wire(upstream)))
        return ""


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


async def opened(gateway: Gateway, request: bytes = HEAD + b"\r\n") -> tuple[Inbound, Wire, Outbound, Wire]:
    """Client, its wire, the sandbox's side, its wire; the request has gone through."""
    client = Inbound(cast(Any, gateway))
    wire = Wire(client)
    client.data_received(request)
    await until(lambda: gateway.ways and gateway.ways[0][1].sent)
    return client, wire, *gateway.ways[0]


def ended(side: Outbound, cut: bool = False) -> None:
    """The sandbox's side says that no more comes, or is cut."""
    assert side._transport is not None
    if cut:
        side._transport.abort()
    elif not side.eof_received():
        side._transport.close()


async def test_who_does_not_read_is_not_answered_without_end(gateway: Gateway) -> None:
    gateway.refusal = Refusal(403, "x" * 1000)
    client = Inbound(cast(Any, gateway))
    wire = Wire(client)
    wire.reads = False
    asked = 0
    for _ in range(60):
        if wire.reading:
            asked += 100
            client.data_received((HEAD + b"\r\n") * 100)
        for _ in range(250):
            await asyncio.sleep(0)
    assert not wire.reading and HIGH_WATER < wire.waiting < HIGH_WATER + 2000 and asked < 1000
    wire.read_all()
    await until(lambda: wire.sent.count(b"HTTP/1.1 403") == asked)
    assert wire.reading


@pytest.mark.parametrize("first", ["client", "sandbox"])
async def test_a_web_socket_that_both_have_finished_is_closed(gateway: Gateway, first: str) -> None:
    client, wire, side, way = await opened(gateway, UPGRADE)
    side.data_received(SWITCHED + b"hello")
    if first == "client":
        assert client.eof_received() and way.ending == "finished"
        ended(side)
    else:
        ended(side)
        assert wire.ending == "finished" and client.eof_received()
    await until(lambda: wire.ending == "closed")
    await until(lambda: way.ending == "closed")
    assert wire.sent.endswith(b"hello")


@pytest.mark.parametrize("finished", [False, True])
async def test_a_web_socket_into_a_killed_sandbox_is_cut(gateway: Gateway, finished: bool) -> None:
    client, wire, side, _ = await opened(gateway, UPGRADE)
    side.data_received(SWITCHED)
    gateway.runs = False
    if finished:
        client.eof_received()
    ended(side, cut=True)
    await until(lambda: wire.ending == "cut")


async def test_a_web_socket_that_is_cut_after_the_sandbox_has_finished_is_closed(gateway: Gateway) -> None:
    _, wire, side, _ = await opened(gateway, UPGRADE)
    side.data_received(SWITCHED)
    ended(side)
    assert wire.ending == "finished"
    ended(side, cut=True)
    await until(lambda: wire.ending == "closed")


@pytest.mark.parametrize(("cut", "ending"), [(False, "closed"), (True, "cut")])
async def test_an_answer_without_length_is_whole_only_when_its_sandbox_has_said_so(
    gateway: Gateway, cut: bool, ending: str
) -> None:
    _, wire, side, _ = await opened(gateway)
    side.data_received(b"HTTP/1.0 200 OK\r\n\r\npart")
    ended(side, cut)  # the sandbox runs: a snapshot cuts its connections
    await until(lambda: wire.ending == ending)
    assert wire.sent.endswith(b"part")


async def test_the_rest_of_an_upload_that_was_cut_is_read_so_that_the_error_is(gateway: Gateway) -> None:
    head = HEAD.replace(b"GET", b"POST") + b"Content-Length: 1000000\r\n\r\n"
    client, wire, _, way = await opened(gateway, head)
    way.reads = False
    client.data_received(bytes(HIGH_WATER + 1))
    assert not wire.reading
    way.abort()
    await until(lambda: b" 502 " in wire.sent)
    assert wire.reading and wire.ending == "finished"


async def test_bytes_in_either_direction_are_use_and_an_open_connection_is_not(gateway: Gateway) -> None:
    client, _, side, _ = await opened(gateway, UPGRADE)
    for receive, data in ((side.data_received, SWITCHED), (side.data_received, b"down"), (client.data_received, b"up")):
        before = gateway.touched
        receive(data)
        assert gateway.touched > before
    before = gateway.touched
    await asyncio.sleep(0.01)
    assert gateway.touched == before and client.deadline == 0


async def test_a_stream_is_use_while_it_flows_but_not_of_a_stranger(gateway: Gateway) -> None:
    for known in (True, False):
        gateway.known = known
        gateway.ways.clear()
        _, wire, side, _ = await opened(gateway)
        side.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        before = gateway.touched
        side.data_received(b"5\r\nevent\r\n")
        assert (gateway.touched > before) is known and wire.sent.endswith(b"5\r\nevent\r\n")


async def test_who_is_told_the_last_and_does_not_read_it_has_so_much_time(gateway: Gateway) -> None:
    client, _, side, _ = await opened(gateway, HEAD + b"Connection: close\r\n\r\n")
    side.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    assert client.deadline > time.monotonic()


HELLO = b"Content-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\ncontent-length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length: -5",
        b"Content-Length:",
        b"Content_Length: 5",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: \x0bchunked",
        b'Transfer-Encoding: "chunked"',
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding\t: chunked",
        b"Transfer_Encoding: chunked",
        b"X: y\r\n Transfer-Encoding: chunked",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"X: y\x00Transfer-Encoding: chunked",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_a_request_whose_end_is_not_certain_reaches_nobody(
    gateway: Gateway, method: bytes, fields: bytes
) -> None:
    client = Inbound(cast(Any, gateway))
    wire = Wire(client)
    client.data_received(method + b" / HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert wire.sent.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in wire.sent
    assert wire.ending == "finished" and not gateway.ways
    client.data_received(HEAD + b"\r\n")  # nothing that follows is a request
    await asyncio.sleep(0)
    assert not gateway.ways and wire.sent.count(b"HTTP/1.1") == 1
    client._transport.abort()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_bare_line_ends_and_chunks_of_an_old_protocol_are_refused_at_once(gateway: Gateway, sent: bytes) -> None:
    client = Inbound(cast(Any, gateway))
    wire = Wire(client)
    client.data_received(sent)
    assert wire.sent.startswith(b"HTTP/1.1 400 ") and not gateway.ways
    client._transport.abort()  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [HELLO, b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"POST"])
@pytest.mark.parametrize("pieces", [1, 1 << 20])
async def test_a_body_is_passed_whole_and_nothing_behind_it(
    gateway: Gateway, method: bytes, body: bytes, pieces: int
) -> None:
    first = method + b" /one HTTP/1.1\r\nHost: x\r\n" + body
    sent = first + b"GET /two HTTP/1.1\r\nHost: x\r\n\r\n"
    client = Inbound(cast(Any, gateway))
    wire = Wire(client)
    for at in range(0, len(sent), pieces):
        client.data_received(sent[at : at + pieces])
    await until(lambda: gateway.ways and bytes(gateway.ways[0][1].sent) == first)
    gateway.ways[0][0].data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    # A server that reads no body here would take it for the next request: that one goes another way.
    second = 0 if method == b"POST" else 1
    await until(lambda: len(gateway.ways) > second and b"/two" in gateway.ways[second][1].sent)
    assert len(gateway.ways) == second + 1 and wire.sent.count(b"HTTP/1.1 200") == 1


async def test_what_shows_no_token_is_told_for_as_long_as_it_is_under_way(gateway: Gateway) -> None:
    gateway.published = True
    client, _, side, _ = await opened(gateway)
    assert client.published == Place(ID, 8000)
    side.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.published is None
    gateway.published = False  # with the token, on the same connection
    client.data_received(UPGRADE)
    await until(lambda: b"Upgrade: websocket" in gateway.ways[-1][1].sent)
    gateway.ways[-1][0].data_received(SWITCHED)
    assert client.published is None
    gateway.published, gateway.ways = True, []
    other, _, side, _ = await opened(gateway, UPGRADE)
    side.data_received(SWITCHED)
    assert other.published == Place(ID, 8000)
