"""Heads are read as one parser only can read them."""

from __future__ import annotations

import pytest

from hutch.http1.heads import BadHead, length_of, parse_answer, parse_request


def test_a_request() -> None:
    request = parse_request(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nConnection: Keep-Alive, close")
    assert (request.method, request.target, request.path, request.get(b"host")) == (b"GET", b"/a?b=c", b"/a", b"x")
    assert request.get(b"x-two") is None and not request.keeps_alive


def test_an_absolute_target_is_its_path() -> None:
    assert parse_request(b"GET http://other/a?b HTTP/1.1\r\nHost: x").target == b"/a?b"


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/2.0",
        b"GET  / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET nowhere HTTP/1.1",
        b"GET /files?path=a#&path=b HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost : x",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded",
        b"GET / HTTP/1.1\r\nHost: a\nX: b",
        b"GET / HTTP/1.1\r\nX: a\x00b",
        b"GET / HTTP/1.1\r\nno colon",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    with pytest.raises(BadHead):
        parse_request(head)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], None),
        ([(b"Content-Length", b"5")], 5),
        ([(b"Transfer-Encoding", b"Chunked")], -1),
    ],
)
def test_length(fields: list[tuple[bytes, bytes]], length: int | None) -> None:
    assert length_of(fields) == length


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Content-Length", b"5"), (b"Content-Length", b"6")],
        [(b"content-length", b"5"), (b"Content-Length", b"5")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"5, 5")],
        [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"xchunked")],
    ],
)
def test_lengths_that_would_smuggle_are_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadHead):
        length_of(fields)


def test_an_answer() -> None:
    answer = parse_answer(b"HTTP/1.0 200\r\nServer: x")
    assert (answer.status, answer.reason, answer.keeps_alive) == (200, b"", False)
    with pytest.raises(BadHead):
        parse_answer(b"HTTP/1.1 20 OK")
