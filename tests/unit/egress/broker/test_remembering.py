"""What went out on one connection of a sandbox comes back on none."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from pydantic import ValidationError

from hutch.egress.broker.answering import Answering
from hutch.egress.broker.grants import Grants
from hutch.egress.broker.refusal import Refused
from hutch.egress.broker.session import Place, Session
from hutch.http1.heads import Request
from hutch.model.grant import SecretGrant
from hutch.tls.minting import Authority

VALUE, NEW, OTHER = b"ghp_real0real0real0real0real", b"ghp_new00new00new00new00new0", b"value-of-another-host"
AUTHORITY = Authority.make("hutch broker of a test", ["good.test", "evil.test"])
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
GZIP = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"
GET = b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"
SENDING = GET.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer SHOWN-shown-shown-shown-shown1\r\n\r\n")


def grant(value: bytes | None) -> SecretGrant:
    secrets = [
        {
            **{"name": name, "placeholder": shown, "value": told.decode() if told else None},
            **{"hosts": [host], "places": ["bearer", "basic"]},
        }
        for name, shown, told, host in (
            ("TOKEN", "SHOWN-shown-shown-shown-shown1", value, "good.test"),
            ("OTHER", "OTHER-shown-shown-shown-shown1", OTHER, "evil.test"),
        )
    ]
    keys = {"authority": AUTHORITY.certificate, "key": AUTHORITY.key}
    return SecretGrant.model_validate({**keys, "hosts": ["good.test", "evil.test"], "secrets": secrets})


class Side:
    """A transport: what was written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: False


class Box:
    """A sandbox, and connections of it."""

    def __init__(self) -> None:
        self.grants = Grants()
        self.grants.put("sbx", grant(VALUE))
        self.reported: list[dict[str, Any]] = []

    def report(self, **entry: Any) -> None:
        self.reported.append(entry)

    def connection(self, name: str = "good.test", port: int = 443) -> tuple[Session, Side, Side]:
        granted = self.grants.find("sbx")
        assert granted is not None
        trusted = cast(Any, object()) if port == 443 else None
        session, inward, outward = Session(granted, Place(name, "192.0.2.1", port), trusted, self), Side(), Side()
        session.connection_made(cast(Any, inward))
        session.opened(cast(Any, outward))
        return session, inward, outward


@pytest.fixture
async def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    async def nowhere(self: Session, trusted: Any) -> None: ...

    monkeypatch.setattr(Session, "_connect", nowhere)
    return Box()


async def said(box: Box, body: bytes, name: str = "good.test", port: int = 443) -> bytes:
    """What comes of an answer on a connection of its own."""
    session, inward, _ = box.connection(name, port)
    session.data_received(GET.replace(b"good.test", name.encode()))
    session.came(ANSWER % (len(body), body))
    await asyncio.sleep(0)
    session.end()
    return inward.written.partition(b"\r\n\r\n")[2]


async def test_a_value_comes_from_its_host_on_no_connection_whatever_was_sent_on_it(box: Box) -> None:
    for port in (443, 80, 8443):
        assert VALUE not in await said(box, b"<" + VALUE + b">", port=port)
    assert OTHER not in await said(box, b"<" + OTHER + b">", "evil.test")
    assert await said(box, VALUE[:-1]) == VALUE[:-1]
    assert await said(box, OTHER) == OTHER, "values that are not for this host are not looked for there"


async def test_former_values_do_not_come_either(box: Box) -> None:
    waiting, inward, _ = box.connection()
    waiting.data_received(GET)
    waiting.came(ANSWER.partition(b"%s")[0] % 200)
    box.grants.put("sbx", grant(NEW))
    waiting.came((b"<" + NEW + b">").ljust(200))
    assert NEW not in inward.written and b"[redacted]" in inward.written
    assert VALUE not in await said(box, VALUE) and NEW not in await said(box, NEW)
    box.grants.put("sbx", grant(None))
    assert VALUE not in await said(box, VALUE) and NEW not in await said(box, NEW)
    waiting.end()


async def test_what_cannot_be_looked_through_is_refused_once_a_value_was_sent_on_any(box: Box) -> None:
    first, early, _ = box.connection()
    first.data_received(GET)
    first.came(GZIP)
    assert early.written == GZIP, "nothing was sent yet"
    second, _, outward = box.connection()
    second.data_received(SENDING)
    assert VALUE in outward.written
    third, late, _ = box.connection()
    for session in (first, third):
        session.data_received(GET)
        session.came(GZIP)
    assert b"compresses" in late.written and b"compresses" in early.written
    assert not any(VALUE.decode() in str(entry) for entry in box.reported)
    other, elsewhere, _ = box.connection("evil.test")
    other.data_received(GET.replace(b"good", b"evil"))
    other.came(GZIP)
    assert elsewhere.written == GZIP


def test_what_cannot_be_read_is_told_without_what_it_says() -> None:
    """Errors go to the sandbox, to its log and to the node's."""
    told = grant(VALUE).model_dump(mode="json")
    with pytest.raises(ValidationError) as broken:  # another version of the server, say
        SecretGrant.model_validate({**told, "secrets": [{**told["secrets"][0], "name": None, "more": VALUE.decode()}]})
    assert VALUE.decode() not in str(broken.value)
    secret = VALUE.decode()
    heads = (f"HTTP/1.1 200 {secret}\r\n{secret}\r\n\r\n", f"HTTP/1.1 {secret}\r\n\r\n", f"{secret}\r\n\r\n")
    for head in (*heads, f"HTTP/1.1 200 OK\r\nContent-Length: {secret}\r\n\r\n"):
        part = Answering([VALUE])
        part.expect(Request(b"GET", b"/", 1, []))
        with pytest.raises(Refused) as caught:
            part.feed(head.encode())
        assert secret not in str(caught.value)
