"""Which connections the fence leads to the broker."""

from __future__ import annotations

import ssl

import pytest

from hutch.egress.fence.guarded import Guarded, Room
from hutch.egress.fence.judging import Judge
from hutch.egress.fence.refusal import Refused
from hutch.model import AllowAll, DenyAll, NetworkRules
from hutch.model.grant import BrokeredRules, brokered
from hutch.model.secret import parse_host

SHARED, ELSEWHERE = "25.25.25.10", "25.25.25.11"
HOSTS = ["good.test:443,8443"]


def hello(name: str) -> bytes:
    out = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def judged(rules: NetworkRules, address: str, port: int, said: str) -> Judge:
    sandbox = Guarded("sbx_a", "10.0.0.2", rules, Room(20_000, []))
    sandbox.names.add("good.test", [SHARED], 1e9)
    sandbox.names.add("other.test", [SHARED], 1e9)
    judge = Judge(sandbox, (address, port), 1)
    if not judge.admit():
        judge.feed(hello(said))
    return judge


NAMED = brokered(NetworkRules(allow=["good.test:80,443,8443", "other.test"]), HOSTS)
OPEN = brokered(AllowAll(), HOSTS)
BY_ADDRESS = brokered(NetworkRules(allow=["good.test:443,8443", SHARED]), HOSTS)


@pytest.mark.parametrize("rules", [NAMED, OPEN, BY_ADDRESS])
@pytest.mark.parametrize("port", [443, 8443])
def test_its_host_is_brokered_however_it_is_allowed(rules: BrokeredRules, port: int) -> None:
    judge = judged(rules, SHARED, port, "good.test")
    assert judge.brokered and judge.decided


@pytest.mark.parametrize("rules", [NAMED, OPEN, BY_ADDRESS])
def test_another_host_at_its_address_is_not(rules: BrokeredRules) -> None:
    judge = judged(rules, SHARED, 443, "other.test")
    assert not judge.brokered and judge.decided


def test_a_policy_is_not_widened() -> None:
    with pytest.raises(Refused):
        judged(NAMED, ELSEWHERE, 443, "good.test")
    narrow = brokered(NetworkRules(allow=["other.test"]), HOSTS)
    assert isinstance(narrow, BrokeredRules) and narrow.allow == ["other.test"]
    with pytest.raises(Refused, match="not in policy"):
        judged(narrow, SHARED, 443, "good.test")
    assert brokered(DenyAll(), HOSTS) == DenyAll()
    assert brokered(AllowAll(), []) == AllowAll()
    assert isinstance(OPEN, BrokeredRules) and OPEN.public


@pytest.mark.parametrize("rules", [NAMED, OPEN])
def test_what_is_not_encrypted_is_looked_through(rules: BrokeredRules) -> None:
    sandbox = Guarded("sbx_a", "10.0.0.2", rules, Room(20_000, []))
    sandbox.names.add("good.test", [SHARED], 1e9)
    judge = Judge(sandbox, (SHARED, 80), 1)
    if judge.admit():  # of a network that is open the kernel lets it through by itself
        return
    judge.feed(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    assert judge.brokered and judge.plain


def test_an_open_network_goes_on_elsewhere() -> None:
    sandbox = Guarded("sbx_a", "10.0.0.2", OPEN, Room(20_000, []))
    judge = Judge(sandbox, (ELSEWHERE, 443), 1)
    assert judge.admit() and judge.settled and not judge.brokered


@pytest.mark.parametrize(
    ("text", "name", "port", "covered"),
    [
        ("good.test", "good.test", 443, True),
        ("good.test", "good.test", 8443, False),
        ("good.test", "a.good.test", 443, False),
        ("*.good.test", "a.b.good.test", 443, True),
        ("*.good.test", "good.test", 443, False),
        ("*.good.test", "notgood.test", 443, False),
        ("good.test:8443", "good.test", 443, False),
    ],
)
def test_hosts(text: str, name: str, port: int, covered: bool) -> None:
    assert parse_host(text).covers(name, port) is covered
    assert parse_host(parse_host(text).text).covers(name, port) is covered


@pytest.mark.parametrize("said", ["good.test", "other.test"])
def test_that_a_host_is_brokered_opens_nothing(said: str) -> None:
    """Neither what the policy denies, nor more than an address that is open has."""
    denied = brokered(NetworkRules(public=True, deny=[SHARED]), HOSTS)
    with pytest.raises(Refused, match="not in policy"):
        judged(denied, SHARED, 443, said)
    also = brokered(NetworkRules(public=True, deny=[SHARED], allow=["good.test"]), HOSTS)
    assert judged(also, SHARED, 443, "good.test").brokered  # what is allowed by name goes before what is denied
    with pytest.raises(Refused):
        judged(also, SHARED, 8443, "good.test")
    unnamed = Guarded("sbx_a", "10.0.0.2", denied, Room(20_000, []))
    unnamed.names.add("good.test", [SHARED], 1e9)
    judge = Judge(unnamed, (SHARED, 8443), 1)
    judge.admit()
    with pytest.raises(Refused):
        judge.feed(b"SSH-2.0-x\r\n" + bytes(64))


def test_as_many_rules_as_there_may_be_have_room_for_brokered_hosts() -> None:
    rules = brokered(NetworkRules(public=True, allow=[f"{n}.test" for n in range(256)]), HOSTS)
    assert isinstance(rules, BrokeredRules) and len(rules.names) == 257
