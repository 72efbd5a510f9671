"""DNS messages, against dnspython."""

from __future__ import annotations

from contextlib import suppress

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from hypothesis import strategies as st

from hutch.egress.fence.dns_wire import BadMessage, answer, parse_answer, parse_question, parse_told, question
from tests.unit.fuzz.mutants import fuzzed, mutants

ASKED = question(0x1234, "www.good.test")
WORDS = [
    *(
        b"\x00",
        b"\x01",
        b"\xff",
        b"\x3f",
        b"\x40",
        b"\xc0\x0c",
        b"\xc0\xff",
        b"\xc0\x0e",
        b"\x04evil",
        b"\x04good",
        b".",
    ),
    *(b"\x00\x01\x00\x01", b"\x00\x05\x00\x01", b"\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01", b"\x00\x29\x04\xd0"),
]


def answering(*records: str) -> bytes:
    """The answer of a name server with these records."""
    message = dns.message.make_response(dns.message.from_wire(ASKED))
    for record in records:
        message.answer.append(dns.rrset.from_text(*record.split()))
    return message.to_wire()


ANSWERS = [
    answering("www.good.test. 60 IN A 192.0.2.1", "www.good.test. 30 IN A 192.0.2.2"),
    answering("www.good.test. 60 IN CNAME a.test.", "a.test. 9 IN CNAME b.test.", "b.test. 5 IN A 192.0.2.9"),
    answering("evil.test. 60 IN A 192.0.2.66", "www.good.test. 60 IN AAAA 2001:db8::1", "www.good.test. 1 IN TXT x"),
    answering(),
]
NAMES = ["www.good.test.", "a.test.", "b.test.", "evil.test."]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Records of several names, leading to each other or not, in any order."""
    records = []
    for _ in range(draw(st.integers(0, 6))):
        owner, ttl = draw(st.sampled_from(NAMES)), draw(st.sampled_from([0, 5, 2**31 - 1]))
        if draw(st.booleans()):
            records.append(f"{owner} {ttl} IN A 192.0.2.{draw(st.integers(1, 9))}")
        else:
            records.append(f"{owner} {ttl} IN CNAME {draw(st.sampled_from(NAMES))}")
    return answering(*records)


QUESTIONS = [
    ASKED,
    dns.message.make_query("good.test", "A", use_edns=True).to_wire(),
    dns.message.make_query("x.y", "TXT").to_wire(),
]


def chased(message: dns.message.Message) -> tuple[set[str], bool]:
    """The addresses that a full parser finds for the name by following aliases, and whether one name has several
    aliases, of which any may be followed."""
    names, found = [dns.name.from_text("www.good.test")], set[str]()
    several = False
    for name in names:
        for rrset in message.answer:
            if rrset.name != name or rrset.rdclass != 1:
                continue
            if rrset.rdtype == dns.rdatatype.A:
                found |= {each.address for each in rrset}
            elif rrset.rdtype == dns.rdatatype.CNAME:
                several |= len(rrset) > 1
                names += [each.target for each in rrset if each.target not in names]
    return found, several


@fuzzed(data=mutants(ANSWERS, WORDS) | answers() | mutants(answers(), WORDS, changes=2))
def test_an_answer_is_read_as_others_read_it(data: bytes) -> None:
    try:
        found = parse_answer(data, ASKED, "www.good.test")
    except BadMessage:
        return
    try:
        other = dns.message.from_wire(data, ignore_trailing=True, one_rr_per_rrset=False)
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return
    assert other.id == 0x1234 and other.question[0].name == dns.name.from_text("www.good.test")
    assert set(found.addresses) <= chased(other)[0], data.hex()


@fuzzed(data=mutants(ANSWERS, WORDS))
def test_what_somebody_was_told_is_read_or_refused(data: bytes) -> None:
    with suppress(BadMessage):
        name, addresses = parse_told(data)
        assert len(name) <= 255
        assert len(addresses) <= 64


def test_good_answers_are_read_in_full() -> None:
    for data in ANSWERS:
        found = parse_answer(data, ASKED, "www.good.test")
        assert set(found.addresses) == chased(dns.message.from_wire(data))[0]


@fuzzed(data=mutants(QUESTIONS, WORDS))
def test_a_question_is_read_as_others_read_it(data: bytes) -> None:
    try:
        asked = parse_question(data)
    except BadMessage:
        return
    dns.message.from_wire(answer(asked, 0, ["192.0.2.1"], 60, "why not"), question_only=True)
    try:
        other = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, NotImplementedError):
        return
    (only,) = other.question
    assert (
        only.name == dns.name.from_text(asked.name.replace("\\", "\\\\"))
        or not asked.name.isprintable()
        or set(asked.name) & set('@$"();\\ ')
    ), data.hex()
    assert (only.rdtype, other.id) == (asked.kind, asked.id)


@fuzzed(data=st.binary(max_size=600))
def test_noise_is_no_message(data: bytes) -> None:
    for parse in (parse_question, lambda noise: parse_answer(ASKED[:2] + b"\x81\x80" + noise, ASKED, "www.good.test")):
        with suppress(BadMessage):
            parse(data)  # type: ignore[operator]
