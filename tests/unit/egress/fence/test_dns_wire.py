"""DNS messages, of guests and of name servers, both strangers."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.fence import dns_wire
from hutch.egress.fence.dns_wire import A, BadMessage, parse_answer, parse_question, question

ASKED = question(7, "www.x.org")


def answered(records: list[tuple[bytes, int, int, bytes]], flags: int = 0x8180, id: int = 7) -> bytes:
    body = b"".join(owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data for owner, kind, ttl, data in records)
    return struct.pack(">6H", id, flags, 1, len(records), 0, 0) + ASKED[12:27] + body


def test_a_question_is_read_as_it_was_asked() -> None:
    read = parse_question(ASKED)
    assert (read.id, read.name, read.kind, read.recursion, read.extended) == (7, "www.x.org", A, True, True)
    assert parse_question(ASKED.replace(b"www", b"WwW")).name == "WwW.x.org"


def test_an_answer_says_what_was_asked_and_why_not() -> None:
    read = parse_question(ASKED)
    made = dns_wire.answer(read, dns_wire.NOERROR, ["1.2.3.4", "5.6.7.8"], 60)
    assert parse_answer(made, ASKED, "www.x.org") == dns_wire.Answer(0, ["1.2.3.4", "5.6.7.8"], 60, False)
    assert b"not in policy" in dns_wire.answer(read, dns_wire.NXDOMAIN, note="not in policy")


def test_aliases_are_followed_and_other_names_are_not() -> None:
    alias, cdn = b"\x03cdn\x01y\x03org\x00", socket.inet_aton("1.2.3.4")
    data = answered(
        [(b"\xc0\x0c", 5, 30, alias), (alias, A, 60, cdn), (b"\x04evil\x00", A, 60, socket.inet_aton("9.9.9.9"))]
    )
    assert parse_answer(data, ASKED, "www.x.org") == dns_wire.Answer(0, ["1.2.3.4"], 30, False)


@pytest.mark.parametrize(
    "data",
    [
        answered([], id=8),
        answered([], flags=0x0100),
        answered([]).replace(b"www", b"wwx"),
        answered([(b"\xc0\x0c", 5, 30, b"\xc0\x1b")]).replace(b"\xc0\x1b", b"\xc0\x27"),  # a pointer to itself
        answered([(b"\xc0\x0c", A, 30, b"1234")])[:-3],
        b"",
    ],
)
def test_answers_to_something_else_are_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_answer(data, ASKED, "www.x.org")


@given(st.binary(max_size=200), st.integers(0, 40))
def test_no_bytes_break_the_parsers(noise: bytes, at: int) -> None:
    for data in (noise, ASKED[:at] + noise, answered([])[:at] + noise, answered([]) + noise):
        with contextlib.suppress(BadMessage):
            parse_question(data)
        with contextlib.suppress(BadMessage):
            parse_answer(data, ASKED, "www.x.org")


@given(st.binary(min_size=17, max_size=512))
def test_what_is_read_can_be_answered(data: bytes) -> None:
    try:
        read = parse_question(data[:2] + b"\x01\x00\x00\x01" + bytes(6) + data[12:])
    except BadMessage:
        return
    assert dns_wire.answer(read, dns_wire.NXDOMAIN).endswith(read.raw)
