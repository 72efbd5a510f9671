"""From an egress log to the smallest policy that allows what was reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from hutch.model.egress import EgressEntry
from hutch.model.network import NetworkRules
from hutch.model.rules import AddressRule, NameRule, Protocol, clean_name


def learned(entries: Iterable[EgressEntry]) -> NetworkRules:
    """Names where the sandbox had asked for one with that address, addresses elsewhere. What was refused is not in it,
    nor what was asked for and never connected to. Raises `InvalidPolicy` where that is more than a policy may have."""
    names: dict[str, set[int]] = defaultdict(set)
    places: dict[tuple[str, Protocol], set[int]] = defaultdict(set)
    known: dict[str, str] = {}
    for entry in entries:
        if not entry.allowed:
            continue
        if entry.kind == "name":
            known.update(dict.fromkeys(entry.addresses, clean_name(entry.name or "") or ""))
        elif entry.address is not None and entry.port is not None:
            name = entry.name or known.get(entry.address)
            if name and entry.protocol == "tcp":
                names[name].add(entry.port)
            elif entry.protocol in ("tcp", "udp"):
                places[entry.address, "tcp" if entry.protocol == "tcp" else "udp"].add(entry.port)
    return NetworkRules(allow=[*_names(names), *_places(places)])


def _names(names: dict[str, set[int]]) -> list[str]:
    return [NameRule(name, False, _few(ports)).text for name, ports in sorted(names.items())]


def _few(ports: set[int]) -> tuple[int, ...]:
    return (80, 443) if ports <= {80, 443} else tuple(sorted(ports))


def _places(places: dict[tuple[str, Protocol], set[int]]) -> list[str]:
    ordered = sorted(places.items(), key=lambda each: (IPv4Address(each[0][0]), each[0][1]))
    return [
        AddressRule(IPv4Network(address), (protocol,), tuple((port, port) for port in sorted(ports))).text
        for (address, protocol), ports in ordered
    ]
