"""What goes to a host: values where they belong, placeholders nowhere."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.egress.broker.asking import Asking
from hutch.egress.broker.refusal import Misplaced, Refused
from hutch.egress.broker.swapping import Given, Swapper, Use
from hutch.egress.broker.tokens import Tokens

SHOWN, REAL = b"ghp_placeholder0placeholder0", b"ghp_real0real0real0real0real"
OTHER = b"another-placeholder-of-another"
PLACES = frozenset(("bearer", "basic", "header:x-key", "query:key"))


def asking(places: frozenset[str] = PLACES) -> Asking:
    names = {SHOWN: "TOKEN", OTHER: "OTHER"}
    swapper = Swapper([Use("TOKEN", SHOWN, REAL, places)], names)
    return Asking(lambda: swapper, "good.test", 443)


def head(*fields: bytes, target: bytes = b"/", method: bytes = b"GET") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: good.test", *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def basic(text: bytes) -> bytes:
    return b"Authorization: Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    ("place", "sent", "expected"),
    [
        ("bearer", head(b"Authorization: Bearer " + SHOWN), b"Authorization: Bearer " + REAL),
        ("bearer", head(b"authorization: TOKEN " + SHOWN), b"authorization: TOKEN " + REAL),
        ("basic", head(basic(b"me:" + SHOWN)), basic(b"me:" + REAL)),
        ("basic", head(basic(SHOWN + b":x-oauth-basic")), basic(REAL + b":x-oauth-basic")),
        ("header:x-key", head(b"X-KEY: k=" + SHOWN + b"; v=1"), b"X-KEY: k=" + REAL + b"; v=1"),
        ("query:key", head(target=b"/a?b=1&key=" + SHOWN), b"/a?b=1&key=" + REAL),
        ("query:key", head(target=b"/a?%6bey=%67" + SHOWN[1:]), b"/a?%6bey=" + REAL),
    ],
)
def test_a_value_goes_where_it_is_for_and_only_there(place: str, sent: bytes, expected: bytes) -> None:
    passed = asking(frozenset((place,))).feed(sent)
    assert expected in passed and SHOWN not in passed
    assert b"Accept-Encoding: identity\r\n" in passed
    with pytest.raises(Misplaced, match="TOKEN"):
        asking(PLACES - {place}).feed(sent)


@pytest.mark.parametrize(
    "sent",
    [
        head(target=b"/" + SHOWN),
        head(method=SHOWN + b"GET"),
        head(target=b"/" + b"".join(b"%%%02x" % each for each in SHOWN)),
        head(target=b"/" + b"".join(b"%%25%02x" % each for each in SHOWN)),
        head(target=b"/?other=" + SHOWN),
        head(target=b"/?key=x" + SHOWN),
        head(b"X-Other: " + SHOWN),
        head(SHOWN + b": x"),
        head(b"Authorization: Bearer x" + SHOWN),
        head(b"Authorization: Bearer " + OTHER),
        head(basic(b"me:" + OTHER)),
        head(b"X-Key: " + SHOWN, b"Cookie: a=" + OTHER),
        head(b"Content-Length: 28", method=b"POST") + SHOWN,
        head(b"Transfer-Encoding: chunked", method=b"POST")
        + b"c\r\n"
        + SHOWN[:12]
        + b"\r\n10\r\n"
        + SHOWN[12:]
        + b"\r\n",
    ],
)
def test_a_placeholder_elsewhere_is_not_sent_however_it_is_cut(sent: bytes) -> None:
    for size in (1, 7, len(sent)):
        part, passed = asking(), b""
        with pytest.raises(Misplaced):
            for at in range(0, len(sent), size):
                passed += part.feed(sent[at : at + size])
        assert SHOWN not in passed and OTHER not in passed and REAL not in passed


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head().replace(b"good.test", b"evil.test"), 421),
        (head(b"Host: good.test"), 421),
        (head().replace(b"good.test", b"good.test:8443"), 421),
        (head(target=b"https://good.test/"), 400),
        (head(method=b"CONNECT", target=b"good.test:443"), 400),
        (head(b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400),
        (head(b"Connection: Upgrade", b"Upgrade: h2c"), 501),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"x" * 70000, 431),
    ],
)
def test_requests_that_are_not_for_this_host_or_not_plain(sent: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        asking().feed(sent)
    assert caught.value.status == status


def test_one_request_after_the_other() -> None:
    part = asking()
    second = head(b"X-Key: " + SHOWN, target=b"/second")
    first = part.feed(head(b"Content-Length: 2", method=b"POST") + b"hi" + second)
    assert first.endswith(b"\r\n\r\nhi") and part.whole and part.waiting == len(second)
    assert part.feed(b"") == b""
    assert REAL in part.answered()
    assert len(part.swapped) == 2


def test_each_request_has_the_values_of_its_time() -> None:
    names = {SHOWN: "TOKEN"}
    now = [Use("TOKEN", SHOWN, REAL, PLACES)]
    part = Asking(lambda: Swapper(list(now), names), "good.test", 443)
    sent = head(b"Authorization: Bearer " + SHOWN)
    assert REAL in part.feed(sent)
    now[0] = Use("TOKEN", SHOWN, b"another-value", PLACES)
    assert part.answered() == b"" and b"another-value" in part.feed(sent)
    assert b"another-value" in part.swapped[1].told and REAL not in part.swapped[1].told
    now.clear()
    part.answered()
    with pytest.raises(Misplaced):
        part.feed(sent)


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_bodies_arrive_as_they_were_sent(body: bytes, sizes: list[int]) -> None:
    sent = head(b"Content-Length: %d" % len(body), method=b"POST") + body
    part, passed, at = asking(), b"", 0
    for size in [*sizes, len(sent)]:
        passed += part.feed(sent[at : at + size])
        at += size
    assert passed.partition(b"\r\n\r\n")[2] == body and part.whole


def test_headers_that_a_rule_gives_go_in_the_place_of_the_sandboxs_own() -> None:
    given = Given(((b"Authorization", b"Bearer " + REAL), (b"X-Team", b"blue")), {"openai": REAL})
    asked = Asking(lambda: Swapper([], {SHOWN: "TOKEN"}, given), "good.test", 443)
    passed = asked.feed(head(b"authorization: Basic bWU6bWU=", b"AUTHORIZATION: x", b"Accept: a", b"x-team: red"))
    assert passed.count(b"uthorization: ") == 1 and b"Authorization: Bearer " + REAL in passed
    assert b"X-Team: blue\r\n" in passed and b"red" not in passed and b"Accept: a\r\n" in passed
    (swapped,) = asked.swapped
    assert swapped.used == {"openai"} and swapped.told == {REAL}
    asked = Asking(lambda: Swapper([], {SHOWN: "TOKEN"}, given), "good.test", 443)
    with pytest.raises(Misplaced):  # not even where it would not have been sent
        asked.feed(head(b"Authorization: Bearer " + SHOWN))


async def test_identity_tokens_in_headers_are_those_of_now_and_hold_for_a_while() -> None:
    tokens, asked = Tokens(), []

    async def ask(audience: str) -> tuple[str, float]:
        asked.append(audience)
        return f"token-{len(asked)}", time.time() + (10 if len(asked) == 1 else 300)

    given = Given(((b"Authorization", b"Bearer ${e2b.identity.tokens.aws}"),), {}, tokens={"aws": "sts"})
    part = Asking(lambda: Swapper([], {}, given, tokens), "good.test", 443)
    with pytest.raises(Refused, match="no identity token for sts"):
        part.feed(head())
    assert tokens.lacking(["sts"]) == ["sts"]
    await asyncio.gather(tokens.fetch(["sts"], ask), tokens.fetch(["sts"], ask))
    assert asked == ["sts"] and tokens.now("sts") == b"token-1"
    assert tokens.lacking(["sts"]) == ["sts"], "it would end on the way"
    await tokens.fetch(["sts"], ask)
    assert not tokens.lacking(["sts"])
    part = Asking(lambda: Swapper([], {}, given, tokens), "good.test", 443)
    passed = part.feed(head(b"authorization: mine"))
    assert b"Authorization: Bearer token-2" in passed and b"mine" not in passed
    assert part.swapped[0].used == set()


def test_a_rule_whose_secret_is_gone_sends_nothing() -> None:
    given = Given((), {}, missing=("openai",))
    asked = Asking(lambda: Swapper([], {}, given), "good.test", 443)
    with pytest.raises(Refused, match="refers to a secret that there is not: openai"):
        asked.feed(head())
