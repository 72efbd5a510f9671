"""What is read of a TLS connection before it is encrypted."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.fence.refusal import Refused
from hutch.egress.fence.tls import _RETRY, MAX_HELLO, TlsGuard


def hello(name: str | None) -> bytes:
    """The record that OpenSSL begins with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


GOOD = hello("good.test")
ACCEPTED = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + bytes(32) + bytes(100)
AGAIN = b"\x16\x03\x03\x00\x58\x02\x00\x00\x54\x03\x03" + _RETRY + bytes(100)
CHANGE = b"\x14\x03\x03\x00\x01\x01"


class Judged:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.guard = TlsGuard(self.judge)

    def judge(self, name: str) -> None:
        self.names.append(name)
        if name != "good.test":
            raise Refused("not in policy")


@given(st.lists(st.integers(1, len(GOOD)), max_size=8))
def test_nothing_passes_before_the_name_is_known(cuts: list[int]) -> None:
    judged, passed, at = Judged(), b"", 0
    for cut in [*sorted(cuts), len(GOOD)]:
        passed += judged.guard.feed(GOOD[at:cut])
        at = cut
        assert not passed or judged.names == ["good.test"]
    assert passed == GOOD


def test_a_refused_name_passes_nothing() -> None:
    with pytest.raises(Refused, match="not in policy"):
        Judged().guard.feed(hello("evil.test"))
    with pytest.raises(Refused, match="no server name"):
        Judged().guard.feed(hello(None))


def test_after_the_server_has_accepted_all_passes() -> None:
    judged = Judged()
    judged.guard.feed(GOOD)
    assert not judged.guard.settled
    judged.guard.answered(ACCEPTED[:20])
    assert not judged.guard.settled
    judged.guard.answered(ACCEPTED[20:])
    assert judged.guard.settled
    later = hello("evil.test")  # what the server would make of it is not ours to say
    assert judged.guard.feed(later) == later


def test_a_second_hello_that_the_server_asks_for_says_the_same() -> None:
    judged = Judged()
    judged.guard.feed(GOOD)
    judged.guard.answered(AGAIN)
    assert judged.guard.feed(CHANGE) == CHANGE
    assert not judged.guard.settled
    assert judged.guard.feed(hello("good.test"))
    assert judged.guard.settled
    other = Judged()
    other.guard.feed(GOOD)
    other.guard.answered(AGAIN)
    with pytest.raises(Refused, match=r"evil\.test after good\.test"):
        other.guard.feed(CHANGE + hello("evil.test"))


def test_a_second_hello_behind_early_data_is_judged_too() -> None:
    judged = Judged()
    judged.guard.feed(GOOD + b"\x17\x03\x03\x00\x05early")
    judged.guard.answered(AGAIN)
    with pytest.raises(Refused):
        judged.guard.feed(b"\x17\x03\x03\x00\x05early" + hello("evil.test"))


def test_the_older_handshake_goes_on() -> None:
    judged = Judged()
    judged.guard.feed(GOOD)
    key = b"\x16\x03\x03\x00\x06\x10\x00\x00\x02\x00\x00"
    assert judged.guard.feed(key) == key
    assert judged.guard.settled


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x17\x03\x03\x00\x05early",
        b"\x16\x02\x00\x00\x05hello",
        b"\x16\x03\x01\xff\xff",
        CHANGE,
    ],
)
def test_what_is_no_tls_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Judged().guard.feed(data)


def test_a_hello_without_end_is_refused() -> None:
    guard = Judged().guard
    guard.feed(b"\x16\x03\x01\x00\x05\x01" + MAX_HELLO.to_bytes(3, "big") + b"x")
    with pytest.raises(Refused):
        for _ in range(10):
            guard.feed(b"\x16\x03\x01\x40\x00" + bytes(16384))


@given(st.binary(max_size=300), st.integers(0, len(GOOD) - 1))
def test_no_bytes_break_the_parser(noise: bytes, at: int) -> None:
    for data in (noise, b"\x16\x03\x01" + noise, GOOD[:at] + noise[:1] + GOOD[at + 1 :]):
        judged = Judged()
        try:
            passed = judged.guard.feed(data)
        except Refused:
            continue
        assert not passed or judged.names == ["good.test"]
