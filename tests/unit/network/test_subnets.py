"""Every node of a host gets a /20 of its own, and keeps it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from hutch.errors import LimitReached
from hutch.network import subnets

POOL = IPv4Network("10.200.0.0/18")  # four /20
Claim = Callable[..., str]


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Claim:
    monkeypatch.setattr(subnets, "CLAIMS", tmp_path / "claims.json")

    def claim(node: str, *taken: str, alive: bool = True, pool: IPv4Network = POOL) -> str:
        got: list[IPv4Network] = []
        subnets.claim(node, pool, [IPv4Network(network) for network in taken], lambda _: alive, got.append)
        return str(got[0])

    return claim


def test_a_node_keeps_what_it_has(claim: Claim) -> None:
    assert claim("aaaa") == "10.200.0.0/20"
    assert claim("bbbb") == "10.200.16.0/20"
    assert claim("aaaa") == "10.200.0.0/20"


def test_what_the_host_uses_is_left_alone(claim: Claim) -> None:
    assert claim("aaaa", "10.200.5.0/24", "10.200.16.0/30", "0.0.0.0/32") == "10.200.32.0/20"


def test_claims_of_nodes_that_left_nothing_are_free_again(claim: Claim) -> None:
    claim("aaaa")
    assert claim("bbbb", alive=False) == "10.200.0.0/20"


def test_a_claim_that_cannot_settle_is_none(claim: Claim) -> None:
    def fail(_: IPv4Network) -> None:
        raise OSError("nftables says no")

    with pytest.raises(OSError, match="says no"):
        subnets.claim("aaaa", POOL, [], lambda _: True, fail)
    assert claim("bbbb") == "10.200.0.0/20"


def test_a_released_subnet_is_free_again(claim: Claim) -> None:
    claim("aaaa")
    subnets.release("aaaa")
    subnets.release("never")
    assert claim("bbbb") == "10.200.0.0/20"


def test_a_full_pool_says_who_has_it(claim: Claim) -> None:
    for node in ("aaaa", "bbbb", "cccc", "dddd"):
        claim(node)
    with pytest.raises(LimitReached) as caught:
        claim("eeee")
    assert caught.value.extra["nodes"] == ["aaaa", "bbbb", "cccc", "dddd"]


def test_another_pool_means_another_subnet(claim: Claim) -> None:
    claim("aaaa")
    assert claim("aaaa", pool=IPv4Network("10.64.0.0/16")) == "10.64.0.0/20"


def test_a_pool_smaller_than_a_subnet_is_taken_whole(claim: Claim) -> None:
    assert claim("aaaa", pool=IPv4Network("10.64.0.0/28")) == "10.64.0.0/28"


def test_a_torn_file_is_begun_anew(claim: Claim) -> None:
    subnets.CLAIMS.write_text('{"aaaa": "10.2')
    assert claim("bbbb") == "10.200.0.0/20"


def test_claims_at_the_same_time_do_not_collide(claim: Claim) -> None:
    wide = IPv4Network("10.200.0.0/14")
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda n: claim(f"n{n:03}", pool=wide), range(32)))
    assert len(set(got)) == 32
