"""E2B's network options as policies of Hutch."""

from __future__ import annotations

from hutch.e2b.bodies import Egress, Network
from hutch.e2b.errors import NotOffered
from hutch.model import AllowAll, DenyAll, NetworkPolicy

_EVERYTHING = ("0.0.0.0/0",)


def policy_of(egress: Egress, internet: bool | None) -> NetworkPolicy:
    """The policy; everything is allowed when nothing is said, as on E2B. Raises `NotOffered` for what no policy of
    Hutch does: to allow more than was asked for would be worse than to refuse."""
    for field in ("dns_servers", "egress_proxy", "rules"):
        if getattr(egress, field):
            raise NotOffered(f"network: `{field}` is not offered by Hutch", hint="docs/e2b.md lists what is.")
    if isinstance(egress, Network) and egress.https_ports:
        raise NotOffered("network: `httpsPorts` is not offered by Hutch", hint="docs/e2b.md lists what is.")
    closed = internet is False or any(each in _EVERYTHING for each in egress.deny_out)
    if closed and not egress.allow_out:
        return DenyAll()
    if any(each in _EVERYTHING for each in egress.allow_out) or not (egress.allow_out or egress.deny_out or closed):
        return AllowAll()
    if not closed and not egress.deny_out:
        return AllowAll()  # nothing is denied: to allow some of it means nothing
    raise NotOffered(
        "network: Hutch allows everything or nothing, so far; lists of addresses and names are not offered",
        hint="Deny everything with `allow_internet_access: false`, or leave the lists out.",
    )
