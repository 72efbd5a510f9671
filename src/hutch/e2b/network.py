"""E2B's network options as policies of Hutch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from typing import Any

from hutch.e2b.bodies import Egress
from hutch.e2b.errors import NotOffered
from hutch.model import AllowAll, DenyAll, NetworkPolicy, NetworkRules
from hutch.model.headers import HeaderRule, check_together

_EVERYTHING = ("0.0.0.0/0",)
_HINT = "docs/e2b.md lists what is."


def policy_of(egress: Egress, internet: bool | None) -> NetworkPolicy:
    """The policy; everything is allowed when nothing is said, as on E2B. Raises `NotOffered` for what no policy of
    Hutch does, and `InvalidPolicy` for what is no rule: to allow more than was asked for would be worse than to
    refuse."""
    if egress.egress_proxy:
        raise NotOffered("network: `egress_proxy` is not offered by Hutch", hint=_HINT)
    servers = NetworkRules(name_servers=egress.dns_servers or []).name_servers
    closed = internet is False or any(each in _EVERYTHING for each in egress.deny_out)
    if closed and not egress.allow_out:
        return DenyAll()
    if any(each in _EVERYTHING for each in egress.allow_out) or not (egress.deny_out or closed):
        return AllowAll()  # what is allowed goes before what is denied; and where nothing is denied, it says nothing
    rules = NetworkRules(
        allow=[_rule(each) for each in egress.allow_out],
        deny=[] if closed else [_rule(each) for each in egress.deny_out],
        public=not closed,
    )
    return _with_name_servers(rules, servers)


def _with_name_servers(rules: NetworkRules, servers: Sequence[str]) -> NetworkRules:
    """On E2B they count where a name is allowed, and all that is sent to them passes. Here a name counts as it was
    resolved: they are asked for it, and questions to them are answered by who judges names."""
    if not rules.names or not servers:
        return rules
    return NetworkRules(**rules.model_dump() | {"name_servers": servers, "allow": [*rules.allow, *servers]})


def header_rules(egress: Egress, audiences: Mapping[str, str]) -> list[HeaderRule]:
    """Its rules that say something; of several for one host the later ones go over the earlier. `audiences`: of the
    identity tokens that they may refer to, by name. Raises `InvalidRequest`."""
    found: dict[str, HeaderRule] = {}
    for host, each in egress.rules.items():
        headers = {name: value for rule in each for name, value in rule.transform.headers.items()}
        rule = HeaderRule(host=host, headers=headers, audiences=dict(audiences))
        if headers:
            found[rule.host] = rule.model_copy(update={"audiences": rule.tokens})
    check_together(list(found.values()))
    return list(found.values())


def rules_view(rules: Sequence[HeaderRule]) -> dict[str, Any]:
    """As E2B's clients read them."""
    return {rule.host: [{"transform": {"headers": rule.headers}}] for rule in rules}


def opens(policy: NetworkPolicy) -> bool:
    """Whether the internet is open but for what is denied."""
    return isinstance(policy, AllowAll) or (isinstance(policy, NetworkRules) and policy.public)


def _rule(text: str) -> str:
    """E2B takes networks that are written with an address inside, and means the network."""
    try:
        return str(IPv4Network(text, strict=False))
    except ValueError:
        return text
