"""A sandbox's rules, made ready to be asked."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hutch.model import NetworkRules
from hutch.model.grant import BrokeredRules
from hutch.model.rules import CLOSED
from hutch.model.secret import parse_host

PUBLIC = "public"


class Permit:
    """What one sandbox may reach."""

    def __init__(self, rules: NetworkRules) -> None:
        self.limits = rules.limits
        self._public = rules.public
        self._denied = [IPv4Network(text) for text in rules.deny]
        self._addresses = rules.addresses
        self._exact: dict[str, set[int]] = {}
        self._below: dict[str, set[int]] = {}
        self._brokered = list(map(parse_host, rules.brokered)) if isinstance(rules, BrokeredRules) else []
        for rule in rules.names:
            (self._below if rule.wildcard else self._exact).setdefault(rule.name, set()).update(rule.ports)

    def ports(self, name: str) -> set[int]:
        """On which ports a name may be reached by a rule about names; none: it may not."""
        found = set(self._exact.get(name, ()))
        for base in self._bases(name):
            found |= self._below[base]
        return found

    @property
    def watched(self) -> bool:
        """Whether the sandbox has placeholders, which the broker looks for in what is not encrypted."""
        return bool(self._brokered)

    def brokered(self, name: str, port: int) -> bool:
        """Whether the broker opens connections to this place."""
        return any(host.covers(name, port) for host in self._brokered)

    def resolves(self, name: str) -> bool:
        """Whether it may ask for this name."""
        return self._public or bool(self.ports(name))

    def rule(self, name: str, port: int) -> str | None:
        """The rule by which this name is reached on this port, the narrowest first; None: it is not."""
        if port in self._exact.get(name, ()):
            return name
        return next((f"*.{base}" for base in self._bases(name) if port in self._below[base]), None)

    def free_part(self, name: str) -> str | None:
        """What stands for the `*`, where only a wildcard allows the name: the sandbox chooses it, others read it."""
        bases = self._bases(name)
        return name[: -len(bases[0]) - 1] if bases and name not in self._exact else None

    def direct(self, address: str, port: int) -> str | None:
        """The rule by which this place is reached over TCP whatever its name; None: it is not."""
        place = IPv4Address(address)
        if (by := next((rule for rule in self._addresses if rule.covers(place, port)), None)) is not None:
            return by.text
        denied = closed(place) or any(place in network for network in self._denied)
        return PUBLIC if self._public and not denied else None

    def tells(self, name: str, address: str) -> bool:
        """Whether it may know that the name has this address: a public one, or a private one that a rule lets through
        by itself."""
        open_anyway = any(self.direct(address, port) for port in self.ports(name))
        return open_anyway or not closed(IPv4Address(address))

    def _bases(self, name: str) -> list[str]:
        """Of the wildcards that cover it, the longest first."""
        labels = name.split(".")
        tails = (".".join(labels[at:]) for at in range(1, len(labels)))
        return [tail for tail in tails if tail in self._below]


def closed(address: IPv4Address) -> bool:
    """Whether it is not public."""
    return any(address in network for network in CLOSED)
