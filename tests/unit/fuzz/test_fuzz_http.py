"""HTTP, against llhttp (what Node and many others read with) and h11: what the fence lets pass, and where the gateway
says that bodies end, nobody behind may read as something else."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import h11
import httptools
from hypothesis import strategies as st

from hutch.egress.fence.refusal import Refused
from hutch.egress.fence.requests import HttpGuard
from tests.unit.fuzz.mutants import cuts, fuzzed, mutants

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET http://good.test/x HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"POST /a?b=c HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nhost: GOOD.test:80\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nTrailer: 1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: good.test\r\nContent-Length: 0\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: good.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
WORDS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b",",
        b";",
        b"0",
        b"5",
        b"+5",
        b"-1",
        b"0x5",
        b"\xff",
    ),
    *(b"Host: evil.test\r\n", b"Host : good.test\r\n", b" Host: evil.test\r\n", b"\r\n Host: evil.test"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 5, 5\r\n", b"content-length:\x0b5\r\n", b"Content-Length: 05\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
    ),
    *(
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"HTTP/1.1",
        b"HTTP/0.9",
    ),
    *(
        b"GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"CONNECT evil.test:443 HTTP/1.1\r\n",
        b"http://evil.test/",
        b"//evil.test",
    ),
    *(b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"5 \r\n", b"5\t;\r\n", b'5;a="\r\n', b"\x85", b"\xa0"),
]


LINES = [word for word in WORDS if word.endswith(b"\r\n") and b":" in word] + [
    *(b"Host: good.test\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"X: " + b"x" * 300 + b"\r\n"),
    *(b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n"),
]
FIRST = [b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n", b"get /%0d%0a HTTP/1.1\r\n"]
BODIES = [b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"0\r\n" + FIRST[0] + b"Host: evil.test\r\n\r\n"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests put together from good and bad lines, and bodies that fit or do not."""
    made = b""
    for _ in range(draw(st.integers(1, 2))):
        lines = [draw(st.sampled_from(LINES)) for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3])))]
        lines.insert(draw(st.integers(0, len(lines))), b"Host: good.test\r\n")
        made += draw(st.sampled_from(FIRST)) + b"".join(lines) + b"\r\n" + draw(st.sampled_from(BODIES))
    return made


BENT = mutants(SEEDS, WORDS) | mutants(requests(), WORDS, changes=2)


@dataclass
class Read:
    """A request as one parser understands it."""

    target: bytes = b""
    hosts: tuple[bytes, ...] = ()
    body: bytes = b""


def by_fence(pieces: list[bytes]) -> tuple[bytes, list[str]]:
    """What passes, and the hosts that were judged; as far as it went."""
    names: list[str] = []

    def judge(name: str) -> None:
        names.append(name)
        if name != "good.test":
            raise Refused("not in policy")

    guard, passed = HttpGuard(judge, 80), b""
    with suppress(Refused):
        for piece in pieces:
            passed += guard.feed(piece)
    return passed, names


class Llhttp:
    """Gathers what httptools calls back."""

    def __init__(self) -> None:
        self.read: list[Read] = []

    def on_message_begin(self) -> None:
        self.read.append(Read())

    def on_url(self, url: bytes) -> None:
        self.read[-1].target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"host":
            self.read[-1].hosts += (value.strip(),)

    def on_body(self, body: bytes) -> None:
        self.read[-1].body += body


def by_llhttp(data: bytes) -> list[Read]:
    gathered = Llhttp()
    with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(gathered).feed_data(data)
    return [read for read in gathered.read if read.target]


def by_h11(data: bytes) -> list[Read]:
    read: list[Read] = []
    server = h11.Connection(h11.SERVER)
    try:
        server.receive_data(data)
        while True:
            match server.next_event():
                case h11.Request() as request:
                    hosts = tuple(value for name, value in request.headers if name == b"host")
                    read.append(Read(request.target, hosts))
                case h11.Data() as piece:
                    read[-1].body += bytes(piece.data)
                case h11.EndOfMessage():
                    server.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                    server.send(h11.EndOfMessage())
                    server.start_next_cycle()
                case _:
                    return read
    except h11.ProtocolError:
        return read


@fuzzed(data=BENT, draw=st.data())
def test_nobody_reads_another_request_in_what_the_fence_lets_pass(data: bytes, draw: st.DataObject) -> None:
    passed, names = by_fence(draw.draw(cuts(data)))
    assert data.startswith(passed), "it adds and leaves out nothing"
    for parser in (by_llhttp, by_h11):
        read = parser(passed)
        assert len(read) <= len(names), (parser.__name__, passed)
        for one, name in zip(read, names, strict=False):
            hosts = {
                host.lower().removesuffix(b".").partition(b":")[0].decode("latin-1").removesuffix(".")
                for host in one.hosts
            }
            assert hosts <= {name} and name == "good.test", (parser.__name__, passed)
            assert b"evil" not in one.target.partition(b"?")[0].partition(b"//")[2] or one.target.startswith(b"/")


@fuzzed(data=BENT, draw=st.data())
def test_it_makes_no_difference_how_the_bytes_come(data: bytes, draw: st.DataObject) -> None:
    assert by_fence(draw.draw(cuts(data)))[1] == by_fence([data])[1]
