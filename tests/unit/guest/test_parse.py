"""Reading HTTP off the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch_guest.http.parse import BadRequest, ChunkedDecoder, LengthDecoder, body_decoder, parse_head
from hutch_guest.http.urls import parse_query, split_target, unquote


def test_head() -> None:
    head = parse_head(b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nx-one:  2 ")
    assert (head.method, head.target, head.keep_alive) == ("POST", "/a?b=c", True)
    assert head.headers == {"host": "x", "x-one": "1, 2"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET /",
        b"GET / HTTP/2.0",
        b"G ET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nno colon",
        b"GET / HTTP/1.1\r\nbad name: x",
        b"GET / HTTP/1.1\r\n folded: x",
        b"GET / HTTP/1.1\r\na: b\0c",
        b"GET / HTTP/1.1\r\na: b\nc: d",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2",
    ],
)
def test_malformed_heads_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_head(raw)


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: -1",
        "Content-Length: 1x",
        "Content-Length: 9999999999999999999",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ],
)
def test_ambiguous_bodies_are_refused(headers: str) -> None:
    with pytest.raises(BadRequest):
        body_decoder(parse_head(f"POST / HTTP/1.1\r\n{headers}".encode()))


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_chunked_bodies_come_out_whole_however_they_are_cut(chunks: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    rest = b"GET /next HTTP/1.1"
    stream, out, decoder, left = wire + rest, [], ChunkedDecoder(), b""
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        piece, stream = stream[:size], stream[size:]
        left += piece if decoder.done else decoder.feed(piece, out.append)
    assert b"".join(out) == b"".join(chunks)
    assert decoder.done
    assert left == rest


@given(st.binary(max_size=60), st.integers(0, 60))
def test_a_body_of_known_length_ends_there(data: bytes, length: int) -> None:
    decoder, out = LengthDecoder(length), []
    rest = b"" if decoder.done else decoder.feed(data, out.append)
    assert b"".join(out) == (data[:length] if length else b"")
    assert rest == (data[length:] if length else b"")


@pytest.mark.parametrize("wire", [b"x\r\n", b"\r\n", b"-1\r\n", b"1" * 20 + b"\r\n", b"2\r\nabX", b"a" * 9000])
def test_malformed_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedDecoder().feed(wire + b"\r\n", lambda _: None)


def test_targets() -> None:
    assert split_target("/a%20b?x=1&y=%2Fz+w&x=2&empty=") == ("/a b", {"x": "2", "y": "/z w", "empty": ""})
    assert split_target("http://host:1/p?q=r") == ("/p", {"q": "r"})
    assert unquote("%zz%4") == "%zz%4"
    assert unquote("%ff").encode("utf-8", "surrogateescape") == b"\xff"
    assert parse_query("") == {}


@given(st.text())
def test_queries_never_fail(text: str) -> None:
    parse_query(text)
    split_target(text)
