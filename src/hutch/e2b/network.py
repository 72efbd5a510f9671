"""E2B's network options as policies of Hutch."""

from __future__ import annotations

from ipaddress import IPv4Network

from hutch.e2b.bodies import Egress, Network
from hutch.e2b.errors import NotOffered
from hutch.model import AllowAll, DenyAll, NetworkPolicy, NetworkRules

_EVERYTHING = ("0.0.0.0/0",)


def policy_of(egress: Egress, internet: bool | None) -> NetworkPolicy:
    """The policy; everything is allowed when nothing is said, as on E2B. Raises `NotOffered` for what no policy of
    Hutch does, and `InvalidPolicy` for what is no rule: to allow more than was asked for would be worse than to
    refuse."""
    for field in ("dns_servers", "egress_proxy", "rules"):
        if getattr(egress, field):
            raise NotOffered(f"network: `{field}` is not offered by Hutch", hint="docs/e2b.md lists what is.")
    if isinstance(egress, Network) and egress.https_ports:
        raise NotOffered("network: `httpsPorts` is not offered by Hutch", hint="docs/e2b.md lists what is.")
    closed = internet is False or any(each in _EVERYTHING for each in egress.deny_out)
    if closed and not egress.allow_out:
        return DenyAll()
    if any(each in _EVERYTHING for each in egress.allow_out) or not (egress.deny_out or closed):
        return AllowAll()  # what is allowed goes before what is denied; and where nothing is denied, it says nothing
    return NetworkRules(
        allow=[_rule(each) for each in egress.allow_out],
        deny=[] if closed else [_rule(each) for each in egress.deny_out],
        public=not closed,
    )


def opens(policy: NetworkPolicy) -> bool:
    """Whether the internet is open but for what is denied."""
    return isinstance(policy, AllowAll) or (isinstance(policy, NetworkRules) and policy.public)


def _rule(text: str) -> str:
    """E2B takes networks that are written with an address inside, and means the network."""
    try:
        return str(IPv4Network(text, strict=False))
    except ValueError:
        return text
