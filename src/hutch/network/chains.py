"""The nftables chains of one slot with rules of its own, as text. They stand beside the two that other slots share."""

from __future__ import annotations

from collections.abc import Iterable

from hutch.model import NetworkRules
from hutch.model.rules import ALL_PORTS, AddressRule, Ports
from hutch.network.base import LLM_ADDRESS, Services

QUESTIONS = 100
"""Packets with questions about names, a second of one guest: more would fill the queue that all guests share."""
OPEN_CHAIN = "everything"
"""The chain that opens all that is public."""
PASSING_CHAIN = "passing"
"""The chain that lets through, and tells so."""


def upward(rules: NetworkRules, services: Services) -> list[str]:
    """Judges what the guest sends, after the redirects were made."""
    limits = rules.limits
    new, dns = limits.new_connections, services.dns
    asked = ", ".join((LLM_ADDRESS, *dict.fromkeys(rules.name_servers)))
    lines = [
        "jump always",
        f"ct state new limit rate over {new}/second burst {2 * new} packets goto refuse",
        f"ct status dnat udp dport {dns} limit rate over {QUESTIONS}/second burst {3 * QUESTIONS} packets drop",
        f"ct state new ct count over {limits.connections} goto refuse",
        f"ct status dnat ct original ip daddr {{ {asked} }} meta l4proto {{ tcp, udp }} th dport {dns} accept",
        f"ct status dnat tcp dport {services.tcp} accept",
    ]
    if limits.mbit is not None:
        lines.insert(1, _policed(limits.mbit))
    if rules.addresses:  # one of them may be about an address of the host's own, which is as public
        lines += ["fib daddr type != unicast goto refuse", "ip daddr @sealed goto refuse"]
    lines += [line for rule in rules.addresses for line in _accept(rule)]
    lines += [f"ip daddr {{ {', '.join(rules.deny)} }} goto refuse"] * bool(rules.deny)
    return [*lines, f"goto {OPEN_CHAIN}" if rules.public else "goto refuse"]


def downward(rules: NetworkRules) -> list[str]:
    """Judges what goes to the guest."""
    return [_policed(rules.limits.mbit)] if rules.limits.mbit is not None else []


def forwarded(rules: NetworkRules) -> bool:
    """Whether the guest has connections that the fence does not see."""
    return rules.public or bool(rules.addresses)


def _accept(rule: AddressRule) -> Iterable[str]:
    if rule.everything:
        return [f"ip daddr {rule.network} goto {PASSING_CHAIN}"]
    if rule.ports == ALL_PORTS:
        return [f"ip daddr {rule.network} meta l4proto {protocol} goto {PASSING_CHAIN}" for protocol in rule.protocols]
    return [
        f"ip daddr {rule.network} {protocol} dport {{ {_ports(rule.ports)} }} goto {PASSING_CHAIN}"
        for protocol in rule.protocols
    ]


def _ports(ports: Ports) -> str:
    return ", ".join(f"{low}-{high}" if low != high else str(low) for low, high in ports)


def _policed(mbit: int) -> str:
    """The kernel lets a second's worth come at once, which TCP needs to find its pace by what is lost."""
    return f"limit rate over {mbit * 125} kbytes/second drop"
