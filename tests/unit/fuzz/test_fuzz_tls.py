"""TLS hellos, against OpenSSL: where the fence lets a hello pass, a server may not see another name in it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st

from hutch.egress.fence.refusal import Refused
from hutch.egress.fence.tls import TlsGuard
from tests.unit.fuzz.mutants import cuts, fuzzed, mutants


def hello(name: str | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, alpn: list[str] | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def split(record: bytes, at: int) -> bytes:
    """The same message in two records."""
    first, second = record[5 : 5 + at], record[5 + at :]
    return b"".join(record[:3] + len(part).to_bytes(2, "big") + part for part in (first, second))


GOOD = hello("good.test")
SEEDS = [
    GOOD,
    hello("good.test", ssl.TLSVersion.TLSv1_2),
    hello("good.test", alpn=["h2", "http/1.1"]),
    hello("evil.test", ssl.TLSVersion.TLSv1_2),
    hello(None),
    split(GOOD, 3),
    split(GOOD, 60),
]
NAME = b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09"
WORDS = [
    *(b"\x00", b"\x01", b"\xff", b"\x00\x00", b"\x16\x03\x01", b"\x14\x03\x03\x00\x01\x01", b"good.test", b"evil.test"),
    *(NAME + b"evil.test", NAME + b"good.test", b"\xfe\x0d\x00\x04abcd", b"EVIL.test", b"evil\x00test", b"good.test."),
]


def block(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(content).to_bytes(2, "big") + content


def named(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(name).to_bytes(2, "big") + name for name in names)
    return block(0, len(entries).to_bytes(2, "big") + entries)


BLOCKS = [
    *(named(b"good.test"), named(b"evil.test"), named(b"good.test", b"evil.test"), named(b"evil.test", b"good.test")),
    *(
        named(b"good.test", kind=1),
        named(b"GOOD.test."),
        named(b""),
        block(0, b""),
        block(0xFE0D, b"x"),
        block(23, b""),
    ),
    *(block(10, b"\0\4\0\x1d\0\x17"), block(13, b"\0\4\x04\x03\x08\x04"), block(43, b"\2\3\3"), block(16, b"\0\3\2h2")),
]


@st.composite
def hellos(draw: st.DrawFn) -> bytes:
    """Hellos put together from blocks, once or several times each, in records of any size."""
    blocks = b"".join(draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6)))
    ciphers = b"\xc0\x2f\xc0\x34\0\xa6"  # some need no certificate
    body = b"\3\3" + bytes(32) + b"\0" + len(ciphers).to_bytes(2, "big") + ciphers + b"\1\0"
    body += len(blocks).to_bytes(2, "big") + blocks
    message, records = b"\1" + len(body).to_bytes(3, "big") + body, b""
    while message:
        size = draw(st.sampled_from([len(message), 1, 7, 50]))
        records += b"\x16\3\1" + len(message[:size]).to_bytes(2, "big") + message[:size]
        message = message[size:]
    return records


def by_openssl(data: bytes) -> list[str | None]:
    """The names that a server hears, which has no certificate and so goes no further."""
    heard: list[str | None] = []

    def listen(connection: Any, name: str | None, context: ssl.SSLContext) -> None:
        heard.append(name)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:aNULL:@SECLEVEL=0")
    context.sni_callback = listen
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with suppress(ssl.SSLError, ValueError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return heard


def test_the_other_side_listens() -> None:
    assert by_openssl(GOOD) == ["good.test"] and by_openssl(split(GOOD, 60)) == ["good.test"]
    assert by_openssl(hello("evil.test")) == ["evil.test"]


@fuzzed(data=mutants(SEEDS, WORDS) | hellos() | mutants(hellos(), WORDS, changes=2), draw=st.data())
def test_a_server_hears_no_other_name_than_the_fence(data: bytes, draw: st.DataObject) -> None:
    names: list[str] = []

    def judge(name: str) -> None:
        names.append(name)
        if name != "good.test":
            raise Refused("not in policy")

    guard, passed = TlsGuard(judge), b""
    with suppress(Refused):
        for piece in draw.draw(cuts(data)):
            passed += guard.feed(piece)
    assert data.startswith(passed) and len(guard._buffer) < 1 << 17
    if passed:
        assert names[0] == "good.test"
        assert {name.lower().removesuffix(".") for name in by_openssl(passed) if name} <= {"good.test"}, passed.hex()
