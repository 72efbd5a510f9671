"""Private networks that the operator lets policies name; without that, sandboxes reach none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

from hutch.errors import InvalidPolicy
from hutch.model.rules import CLOSED, PRIVATE, AddressRule

SETTING = "HUTCH_PRIVATE_NETWORKS"


def private_networks(text: str, pool: str) -> tuple[IPv4Network, ...]:
    """What the setting says; `pool` are the addresses of slots. Raises `InvalidPolicy`."""
    return tuple(_network(part.strip(), IPv4Network(pool)) for part in text.split(",") if part.strip())


def check_private(rules: Iterable[AddressRule], allowed: Sequence[IPv4Network], field: str = "network.allow") -> None:
    """Raises `InvalidPolicy` for a rule about private addresses that are not allowed."""
    for rule in rules:
        private = any(rule.network.overlaps(each) for each in PRIVATE)
        if private and not any(rule.network.subnet_of(each) for each in allowed):
            now = ", ".join(map(str, allowed)) or "none"
            raise InvalidPolicy(
                f"the rule {rule.text!r} is wrong: {rule.network} is private, and not open to sandboxes",
                hint=f"The operator says which private networks policies may name: {SETTING} (now: {now}).",
                field=field,
                value=rule.text,
            )


def never(allowed: Sequence[IPv4Network]) -> list[IPv4Network]:
    """What no rule opens, where these private networks are allowed."""
    left = list(CLOSED)
    for hole in allowed:
        left = [part for network in left for part in _without(network, hole)]
    return left


def _without(network: IPv4Network, hole: IPv4Network) -> Iterable[IPv4Network]:
    return network.address_exclude(hole) if hole.subnet_of(network) else () if network.subnet_of(hole) else (network,)


def _network(text: str, pool: IPv4Network) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise _wrong(text, f"is no network of IPv4: {error}", "Write `10.20.0.0/16,192.168.7.0/24`.") from None
    if not any(network.subnet_of(each) for each in PRIVATE):
        what = "is not private" if not any(network.overlaps(each) for each in CLOSED) else "is never open to sandboxes"
        raise _wrong(text, what, f"Private are parts of {', '.join(map(str, PRIVATE))}.")
    if network.overlaps(pool):
        hint = "Name smaller networks beside it, or choose another HUTCH_SUBNET_POOL."
        raise _wrong(text, f"overlaps {pool}, the addresses of sandboxes", hint)
    return network


def _wrong(text: str, what: str, hint: str) -> InvalidPolicy:
    return InvalidPolicy(f"{SETTING}: {text[:64]} {what}", hint=hint, field=SETTING, value=text[:64])
