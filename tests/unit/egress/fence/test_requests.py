"""Requests on one connection, judged one by one."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.fence.refusal import Refused
from hutch.egress.fence.requests import HttpGuard, looks_like_http

GET = b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"
EVIL = b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: good.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def judge(name: str) -> None:
    if name != "good.test":
        raise Refused("not in policy")


def guard() -> HttpGuard:
    return HttpGuard(judge, 80)


@given(st.lists(st.sampled_from([GET, POST, CHUNKS]), max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_good_requests_pass_however_they_are_cut(requests: list[bytes], cuts: list[int]) -> None:
    made, data, passed, at = guard(), b"".join(requests), b"", 0
    for cut in [*sorted(cuts), len(data)]:
        passed += made.feed(data[at:cut])
        at = max(at, cut)
    assert passed == data


@given(st.lists(st.sampled_from([GET, POST, CHUNKS]), max_size=3), st.lists(st.integers(0, 400), max_size=6))
def test_nothing_of_a_refused_request_passes(requests: list[bytes], cuts: list[int]) -> None:
    made, good, passed, at = guard(), b"".join(requests), b"", 0
    data = good + EVIL
    with pytest.raises(Refused, match="not in policy"):
        for cut in [*sorted(cuts), len(data)]:
            passed += made.feed(data[at:cut])
            at = max(at, cut)
    assert good.startswith(passed)


def test_after_an_upgrade_nothing_passes_until_the_server_agrees() -> None:
    made = guard()
    assert made.feed(UPGRADE + EVIL) == UPGRADE
    assert made.waiting
    made.answered(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert made.feed(b"") == b""
    made.answered(b"\r\nframes")
    assert made.feed(b"") == EVIL  # it is no HTTP any more, and goes where the guest may speak
    other = guard()
    other.feed(UPGRADE + EVIL)
    with pytest.raises(Refused):
        other.answered(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
        other.feed(b"")


@given(st.binary(max_size=300))
def test_no_bytes_break_it(noise: bytes) -> None:
    for data in (noise, b"GET / HTTP/1.1\r\n" + noise, GET + noise, UPGRADE + noise):
        made = guard()
        with contextlib.suppress(Refused):
            made.feed(data)
            made.answered(noise)


def test_what_looks_like_http() -> None:
    assert looks_like_http(GET) is True
    assert looks_like_http(b"PRI * HTTP/2.0\r\n") is True
    assert looks_like_http(b"GET /ve") is None
    assert looks_like_http(b"SSH-2.0-x\r\n") is False
    assert looks_like_http(b"\x00\x01") is False
    assert looks_like_http(b"0032git-upload-pack /x\0host=good.test\0") is False
    assert looks_like_http(b"get key\r\n") is False


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n" + EVIL,
        EVIL.replace(b"GET /", b"GET /\xff"),
        EVIL.replace(b"GET /", b"GET /\x01"),
        EVIL.replace(b" HTTP", b"\tHTTP"),
        EVIL.replace(b" HTTP", b" http"),
        EVIL.replace(b"GET", b"M-GET"),
        EVIL.replace(b"GET", b"G" * 40),
        EVIL.replace(b"GET /", b"GET /" + b"x" * 9000),
    ],
)
def test_what_a_lenient_server_reads_as_http_is_judged_however_it_is_cut(sent: bytes) -> None:
    begun = next(found for found in (looks_like_http(sent[:end]) for end in range(1, len(sent))) if found is not None)
    assert begun is True
    with pytest.raises(Refused):
        guard().feed(sent)


def test_chunks_in_http_1_0_are_refused() -> None:
    with pytest.raises(Refused, match="in chunks"):
        guard().feed(CHUNKS.replace(b"HTTP/1.1", b"HTTP/1.0"))
