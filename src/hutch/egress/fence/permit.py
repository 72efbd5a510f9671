"""A sandbox's rules, made ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from hutch.model import NetworkRules
from hutch.model.grant import BrokeredRules
from hutch.model.rules import CLOSED, NameRule
from hutch.model.secret import parse_host

PUBLIC = "public"


class _Names:
    """Rules about names."""

    def __init__(self, rules: Sequence[NameRule]) -> None:
        self.exact: dict[str, set[int]] = {}
        self.below: dict[str, set[int]] = {}
        for rule in rules:
            (self.below if rule.wildcard else self.exact).setdefault(rule.name, set()).update(rule.ports)

    def rule(self, name: str, port: int) -> str | None:
        """The one that is for this name on this port, the narrowest first."""
        if port in self.exact.get(name, ()):
            return name
        return next((f"*.{base}" for base in self.bases(name) if port in self.below[base]), None)

    def bases(self, name: str) -> list[str]:
        """Of the wildcards that cover it, the longest first."""
        labels = name.split(".")
        tails = (".".join(labels[at:]) for at in range(1, len(labels)))
        return [tail for tail in tails if tail in self.below]


class Permit:
    """What one sandbox may reach."""

    def __init__(self, rules: NetworkRules) -> None:
        self.limits = rules.limits
        self._public = rules.public
        self._denied = [IPv4Network(text) for text in rules.deny]
        self._addresses = rules.addresses
        self._brokered = list(map(parse_host, rules.brokered)) if isinstance(rules, BrokeredRules) else []
        led = len(rules.led) if isinstance(rules, BrokeredRules) else 0
        self._names = _Names(rules.names)
        self._opening = _Names(rules.names[: len(rules.names) - led])

    def ports(self, name: str) -> set[int]:
        """On which ports a name may be reached by a rule about names; none: it may not."""
        found = set(self._names.exact.get(name, ()))
        for base in self._names.bases(name):
            found |= self._names.below[base]
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
        return self._names.rule(name, port)

    def reached(self, name: str, address: str, port: int) -> str | None:
        """The rule by which this place is reached that has this name: one about the name, or about the address. None:
        it is not."""
        rule = self._names.rule(name, port)
        if rule is None or self._opening.rule(name, port) is None:  # it has to be open anyway
            direct = self.direct(address, port)
            return (rule or direct) if direct is not None else None
        return rule

    def free_part(self, name: str) -> str | None:
        """What stands for the `*`, where only a wildcard allows the name: the sandbox chooses it, others read it."""
        bases = self._names.bases(name)
        return name[: -len(bases[0]) - 1] if bases and name not in self._names.exact else None

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


def closed(address: IPv4Address) -> bool:
    """Whether it is not public."""
    return any(address in network for network in CLOSED)
