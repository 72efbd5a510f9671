"""E2B's options as Hutch's."""

from __future__ import annotations

from typing import Any

import pytest

from hutch.e2b.bodies import Network, NewSandbox
from hutch.e2b.errors import NotOffered
from hutch.e2b.lists import _metadata
from hutch.e2b.network import policy_of
from hutch.e2b.options import options_of
from hutch.e2b.templates import without_tag


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
    ],
)
def test_policies(network: dict[str, Any], internet: bool | None, mode: str) -> None:
    assert policy_of(Network.model_validate(network), internet).mode == mode


@pytest.mark.parametrize(
    ("network", "internet"),
    [
        ({"allowOut": ["example.org"]}, False),
        ({"denyOut": ["10.0.0.0/8"]}, None),
        ({"denyOut": ["0.0.0.0/0"], "allowOut": ["1.1.1.1"]}, None),
        ({"rules": {"example.org": []}}, None),
        ({"dnsServers": ["1.1.1.1"]}, None),
        ({"egressProxy": {"address": "x"}}, None),
        ({"httpsPorts": [443]}, None),
    ],
)
def test_what_no_policy_does_is_refused(network: dict[str, Any], internet: bool | None) -> None:
    with pytest.raises(NotOffered):
        policy_of(Network.model_validate(network), internet)


def test_nulls_are_what_is_not_there() -> None:
    body = NewSandbox.model_validate({"templateID": "base", "timeout": None, "network": None, "newer": 1})
    assert body.timeout == 300 and options_of(body, secure=True).public


def test_metadata_has_two_more_layers_of_encoding() -> None:
    assert _metadata("k%2520y=v%2526%253D1&a=b") == {"k%20y".replace("%20", " "): "v&=1", "a": "b"}
    assert _metadata(None) == {}


def test_default_tags_are_none() -> None:
    assert [without_tag(name) for name in ("a", "a:default", "a:latest", "a:v1")] == ["a", "a", "a", "a:v1"]
