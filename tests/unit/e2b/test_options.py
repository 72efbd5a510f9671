"""E2B's options as Hutch's."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hutch.e2b.bodies import Network, NetworkUpdate, NewSandbox
from hutch.e2b.errors import NotOffered
from hutch.e2b.lists import _metadata
from hutch.e2b.network import opens, policy_of
from hutch.e2b.options import options_of
from hutch.e2b.templates import without_tag
from hutch.errors import InvalidPolicy
from hutch.model import DenyAll, NetworkRules


def test_a_restriction_that_is_not_known_is_refused() -> None:
    """Beside `network` what is newer is passed over; in it that might open what was to be closed."""
    for kind in (Network, NetworkUpdate):
        with pytest.raises(ValidationError, match="denyPorts"):
            kind.model_validate({"denyPorts": [25]})
    with pytest.raises(ValidationError, match="denyPorts"):
        NewSandbox.model_validate({"network": {"denyPorts": [25]}})


@pytest.mark.parametrize(
    ("network", "internet", "mode"),
    [
        ({}, None, "allow_all"),
        ({}, True, "allow_all"),
        ({}, False, "deny_all"),
        ({"denyOut": ["0.0.0.0/0"]}, None, "deny_all"),
        ({"denyOut": ["0.0.0.0/0"], "allowOut": ["0.0.0.0/0"]}, None, "allow_all"),
        ({"allowOut": ["example.org"]}, None, "allow_all"),
        ({"allowPublicTraffic": False, "allowOut": None}, None, "allow_all"),
        ({"allowOut": ["example.org"]}, False, "rules"),
        ({"denyOut": ["10.0.0.0/8"]}, None, "rules"),
        ({"denyOut": ["0.0.0.0/0"], "allowOut": ["1.1.1.1"]}, None, "rules"),
    ],
)
def test_policies(network: dict[str, Any], internet: bool | None, mode: str) -> None:
    assert policy_of(Network.model_validate(network), internet).mode == mode


@pytest.mark.parametrize(
    ("network", "internet"),
    [
        ({"egressProxy": {"address": "x"}}, None),
    ],
)
def test_what_no_policy_does_is_refused(network: dict[str, Any], internet: bool | None) -> None:
    with pytest.raises(NotOffered):
        policy_of(Network.model_validate(network), internet)


def test_lists_become_rules() -> None:
    said = {"denyOut": ["0.0.0.0/0", "8.8.8.8"], "allowOut": ["*.Example.org", "1.2.3.4/24", "db.example.org"]}
    policy = policy_of(Network.model_validate(said), None)
    assert policy == NetworkRules(allow=["*.example.org", "1.2.3.0/24", "db.example.org"])
    assert not opens(policy)
    policy = policy_of(Network.model_validate({"denyOut": ["8.8.8.8"], "allowOut": ["8.8.8.8"]}), None)
    assert policy == NetworkRules(allow=["8.8.8.8"], deny=["8.8.8.8"], public=True)
    assert opens(policy)
    for wrong in ({"denyOut": ["example.org"]}, {"denyOut": ["0.0.0.0/0"], "allowOut": ["169.254.1.1"]}):
        with pytest.raises(InvalidPolicy):
            policy_of(Network.model_validate(wrong), None)


def test_name_servers_count_where_a_name_is_allowed() -> None:
    said = {"denyOut": ["0.0.0.0/0"], "allowOut": ["example.org"], "dnsServers": ["9.9.9.9"]}
    policy = policy_of(Network.model_validate(said), None)
    assert policy == NetworkRules(allow=["example.org", "9.9.9.9"], name_servers=["9.9.9.9"])
    assert policy_of(Network.model_validate(said | {"allowOut": []}), None) == DenyAll()
    only_addresses = policy_of(Network.model_validate(said | {"allowOut": ["1.2.3.4"]}), None)
    assert only_addresses == NetworkRules(allow=["1.2.3.4"])
    for wrong in ("10.0.0.53", "169.254.169.254", "127.0.0.1", "dns.example.org", "9.9.9.9:5353", "2620:fe::fe"):
        for network in (said, {}):
            with pytest.raises(InvalidPolicy, match="name server"):
                policy_of(Network.model_validate({**network, "dnsServers": [wrong]}), None)


def test_nulls_are_what_is_not_there() -> None:
    body = NewSandbox.model_validate({"templateID": "base", "timeout": None, "network": None, "newer": 1})
    assert body.timeout == 300 and options_of(body, secure=True).public


def test_metadata_has_two_more_layers_of_encoding() -> None:
    assert _metadata("k%2520y=v%2526%253D1&a=b") == {"k%20y".replace("%20", " "): "v&=1", "a": "b"}
    assert _metadata(None) == {}


def test_default_tags_are_none() -> None:
    assert [without_tag(name) for name in ("a", "a:default", "a:latest", "a:v1")] == ["a", "a", "a", "a:v1"]
