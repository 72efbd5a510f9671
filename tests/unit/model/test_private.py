"""Which private networks policies may name."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from hutch.errors import InvalidPolicy
from hutch.model import NetworkRules
from hutch.model.private import check_private, never, private_networks
from hutch.model.rules import CLOSED

POOL = "10.200.0.0/14"
ALLOWED = private_networks("10.20.0.0/16, 192.168.7.0/24", POOL)


def check(rule: str) -> None:
    check_private(NetworkRules(allow=[rule]).addresses, ALLOWED)


def test_what_the_operator_allows_may_be_named_and_nothing_else_private() -> None:
    for rule in ("10.20.0.0/16", "10.20.3.4:22", "udp://192.168.7.1:53", "1.2.3.4", "x.org"):
        check(rule)
    for rule in ("10.21.0.1", "10.0.0.0/8", "10.20.0.0/15", "192.168.0.0/16", "172.16.0.1:443"):
        with pytest.raises(InvalidPolicy, match="private") as caught:
            check(rule)
        assert "HUTCH_PRIVATE_NETWORKS (now: 10.20.0.0/16, 192.168.7.0/24)" in str(caught.value.hint)
    assert private_networks(" ", POOL) == ()


@pytest.mark.parametrize(
    "text",
    [
        "10.20.0.1/16", "x", "10.20.0.0/16;10.21.0.0/16", "1.2.3.0/24", "0.0.0.0/0", "169.254.0.0/16",
        "169.254.169.254/32", "127.0.0.0/8", "100.64.0.0/10", "168.63.129.16/32", "224.0.0.0/4", "10.0.0.0/7",
        "10.200.0.0/16", "10.0.0.0/8", "fd00::/8",
    ],
)  # fmt: skip
def test_what_the_operator_cannot_allow(text: str) -> None:
    with pytest.raises(InvalidPolicy, match="HUTCH_PRIVATE_NETWORKS"):
        private_networks(text, POOL)


def test_what_is_never_open_is_all_the_rest() -> None:
    def has(networks: list[IPv4Network], address: str) -> bool:
        return any(IPv4Address(address) in network for network in networks)

    left = never(ALLOWED)
    assert not has(left, "10.20.255.255") and not has(left, "192.168.7.0")
    for address in ("10.19.255.255", "10.21.0.0", "10.200.0.1", "192.168.8.0", "169.254.169.254", "127.0.0.1"):
        assert has(left, address)
    assert sum(each.num_addresses for each in left) == sum(each.num_addresses for each in CLOSED) - 65536 - 256
    assert never(()) == list(CLOSED)
