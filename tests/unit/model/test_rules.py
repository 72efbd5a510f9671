"""The language of network rules: what is accepted is canonical, what is refused says the way out."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.errors import InvalidPolicy
from hutch.model import AllowAll, DenyAll, NetworkRules
from hutch.model.policies import BUILT_IN, expanded, said
from hutch.model.rules import PRIVATE, AddressRule, NameRule, clean_name, parse_rule


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("pypi.org", "pypi.org"),
        ("  PyPI.org. ", "pypi.org"),
        ("pypi.org:443,80", "pypi.org"),
        ("*.github.com", "*.github.com"),
        ("tcp://db.example.com:5432", "db.example.com:5432"),
        ("_x.example.com", "_x.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4/32", "1.2.3.4"),
        ("140.82.112.0/20:22", "140.82.112.0/20:22"),
        ("udp://9.9.9.9:123", "udp://9.9.9.9:123"),
        ("1.2.3.4:90-100,80,95-99", "1.2.3.4:80,90-100"),
    ],
)
def test_rules_become_canonical(text: str, canonical: str) -> None:
    assert parse_rule(text).text == canonical
    assert parse_rule(canonical).text == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "*.", "*.com", "com", "localhost", "**.x.org", "a.*.org", "*x.org", "x..org", ".x.org", "-x.org",
        "x.org/path", "https://x.org", "x.org:0", "x.org:65536", "x.org:80-90", "x.org:http", "x.org:",
        "x.org:1,2,3,4,5,6,7,8,9", "udp://x.org:53", "icmp://1.2.3.4", "bücher.example", "x.123", "1.2.3", "16909060",
        "0x01020304", "1.2.3.4.5", "01.2.3.4", "1.2.3.4/33", "1.2.3.4/24", "0.0.0.0/0", "10.0.0.0/7", "192.168.0.0/15",
        "169.254.169.254", "127.0.0.1", "100.64.0.1", "224.0.0.1", "0.0.0.0/1", "::1", "[::1]:443", "2001:db8::/32",
        "1.2.3.4:5-1", "168.63.129.16", "x" * 64 + ".org", "x\n.org", "x.org y.org", "a." * 130 + "org",
    ],
)  # fmt: skip
def test_what_could_be_meant_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        parse_rule(text)
    assert caught.value.code == "invalid_policy"
    assert caught.value.hint
    assert caught.value.extra["field"] == "network.allow"


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InvalidPolicy:
        return
    assert parse_rule(rule.text) == rule


@given(st.from_regex(r"(tcp://|udp://)?(\*\.)?[a-z0-9.*/-]{1,20}(:[0-9,-]{1,12})?", fullmatch=True))
def test_what_looks_like_a_rule_is_one_or_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InvalidPolicy:
        return
    assert parse_rule(rule.text) == rule
    if isinstance(rule, AddressRule):
        assert not rule.network.is_private or any(map(rule.network.subnet_of, PRIVATE))


def test_rules_cover_what_they_say() -> None:
    wild = parse_rule("*.x.org")
    assert isinstance(wild, NameRule)
    assert wild.covers("a.x.org")
    assert wild.covers("a.b.x.org")
    assert not any(map(wild.covers, ("x.org", "ax.org", "x.org.evil.org")))
    place = parse_rule("1.2.3.0/24:22,80-90")
    assert isinstance(place, AddressRule)
    assert place.covers(IPv4Address("1.2.3.9"), 85)
    assert not place.covers(IPv4Address("1.2.3.9"), 91)
    assert not place.covers(IPv4Address("1.2.4.9"), 22)


@pytest.mark.parametrize("form", ["1.2.3.4", "0x1", "12", "a.0x7f", "a b.org", "a/b.org", "", "é.org"])
def test_addresses_in_any_form_are_no_names(form: str) -> None:
    assert clean_name(form) is None


def test_named_policies_become_rules() -> None:
    policy = expanded(NetworkRules(allow=["x.org"], policies=["packages"]))
    assert isinstance(policy, NetworkRules)
    assert {"x.org", "pypi.org"} <= set(policy.allow)
    assert expanded(policy) == policy
    air = expanded(NetworkRules(policies=["air-gapped"]))
    assert isinstance(air, NetworkRules)
    assert air.allow == []
    with pytest.raises(InvalidPolicy, match="no policy nothing"):
        expanded(NetworkRules(policies=["nothing"]))
    for rules in BUILT_IN.values():
        NetworkRules(allow=list(rules))


def test_policies_as_people_say_them() -> None:
    assert said("deny_all") == DenyAll()
    assert said(["allow_all"]) == AllowAll()
    assert said(["packages", "x.org:22"]) == NetworkRules(allow=["x.org:22"], policies=["packages"])
    with pytest.raises(InvalidPolicy):
        said("allow-everything-please:443")
    with pytest.raises(InvalidPolicy, match="cannot be denied"):
        NetworkRules(deny=["evil.org"])
    assert NetworkRules(deny=["10.0.0.0/8"], public=True).deny == ["10.0.0.0/8"]
