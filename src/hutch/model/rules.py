"""The language of network rules. Strict: what could be meant in two ways is refused, with the way out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Literal

from hutch.errors import InvalidPolicy

MAX_RULE = 320
MAX_PORTS = 8
NAME_PORTS = ((80, 80), (443, 443))
ALL_PORTS = ((1, 65535),)

CLOSED = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; some clouds' metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's platform: keys and settings of the machine
        "169.254.0.0/16",  # link-local; cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
"""Not public: never reachable from a sandbox, but for private networks that the operator lets policies name."""

PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
"""Those of `CLOSED` of which that may be said."""

Protocol = Literal["tcp", "udp"]
Ports = tuple[tuple[int, int], ...]

_RULE = re.compile(r"(?:(?P<scheme>[a-z]+)://)?(?P<target>[^:]+)(?::(?P<ports>[0-9,-]+))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class NameRule:
    """A name, or all names below one, over TCP."""

    name: str
    wildcard: bool
    """All names below `name`, and not itself."""
    ports: tuple[int, ...]

    @property
    def text(self) -> str:
        """As it is written shortest."""
        target = f"*.{self.name}" if self.wildcard else self.name
        return target + ("" if self.ports == (80, 443) else f":{','.join(map(str, self.ports))}")

    def covers(self, name: str) -> bool:
        """Whether it is about this name, which is in small letters and without a dot at its end."""
        return name.endswith(f".{self.name}") if self.wildcard else name == self.name


@dataclass(frozen=True)
class AddressRule:
    """A network of IPv4, judged by the kernel alone."""

    network: IPv4Network
    protocols: tuple[Protocol, ...]
    ports: Ports

    @property
    def text(self) -> str:
        """As it is written shortest."""
        scheme = f"{self.protocols[0]}://" if len(self.protocols) == 1 else ""
        network = str(self.network.network_address) if self.network.prefixlen == 32 else str(self.network)
        ports = ",".join(f"{low}-{high}" if low != high else str(low) for low, high in self.ports)
        return f"{scheme}{network}" + ("" if self.ports == ALL_PORTS else f":{ports}")

    @property
    def everything(self) -> bool:
        """Whether it is about all protocols and ports."""
        return len(self.protocols) == 2 and self.ports == ALL_PORTS

    def covers(self, address: IPv4Address, port: int, protocol: Protocol = "tcp") -> bool:
        """Whether it is about this place."""
        return (
            protocol in self.protocols
            and address in self.network
            and any(low <= port <= high for low, high in self.ports)
        )


Rule = NameRule | AddressRule


def parse_rule(text: str, *, field: str = "network.allow", open_to_all: bool = False) -> Rule:
    """The rule that is written so; private networks are not refused here. `open_to_all`: neither are those that are
    never reachable, or are everything. Raises `InvalidPolicy`."""
    try:
        return _parse(text, open_to_all)
    except _Wrong as wrong:
        raise InvalidPolicy(
            f"the rule {text[:200]!r} is wrong: {wrong.what}", hint=wrong.hint, field=field, value=text[:200]
        ) from None


def clean_name(text: str) -> str | None:
    """A host name as rules have it: small letters, no dot at its end; None for what is none, such as an address in
    whatever form."""
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
        return None
    return name


class _Wrong(Exception):
    def __init__(self, what: str, hint: str | None = None) -> None:
        self.what, self.hint = what, hint


def _parse(text: str, open_to_all: bool) -> Rule:
    match = _RULE.fullmatch(text.strip().lower()) if len(text) <= MAX_RULE else None
    if match is None:
        raise _Wrong("it is not `[tcp://|udp://]name|*.name|address|network[:ports]`", _hint(text))
    scheme, target = match["scheme"], match["target"]
    if scheme not in (None, "tcp", "udp"):
        raise _Wrong(f"there is no protocol {scheme}", f"Give the name and its ports: `{target}:443`.")
    ports = _ports(match["ports"]) if match["ports"] is not None else None
    if re.fullmatch(r"[0-9./]+", target):
        return _address(target, scheme, ports, open_to_all)
    return _name(target, scheme, ports)


def _hint(text: str) -> str | None:
    if text.count(":") > 1:
        return "Sandboxes have no IPv6."
    return "A rule has no path." if "/" in text else None


def _ports(text: str) -> Ports:
    found: list[tuple[int, int]] = []
    for part in text.split(","):
        match = _PORT.fullmatch(part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= 65535:
            raise _Wrong(f"{part!r} is no port", "Ports are `443`, `80,443` or `8000-8100`.")
        found.append((low, high))
    if len(found) > MAX_PORTS:
        raise _Wrong(f"it has more than {MAX_PORTS} ports", "Use ranges, or several rules.")
    return _merged(found)


def _merged(found: list[tuple[int, int]]) -> Ports:
    """Sorted, and what overlaps in one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _address(target: str, scheme: str | None, ports: Ports | None, open_to_all: bool) -> AddressRule:
    try:
        network = IPv4Network(target)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise _Wrong(f"{target} is no IPv4 address or network: {error}") from None
    if not open_to_all:
        if network.prefixlen == 0:
            raise _Wrong("it is everything", 'Say `{"mode": "allow_all"}`, or `"public": true` beside the rules.')
        for closed in CLOSED:
            if network.overlaps(closed) and not (closed in PRIVATE and network.subnet_of(closed)):
                raise _Wrong(f"{closed} is never reachable from a sandbox", "Only public addresses may be allowed.")
    protocols: tuple[Protocol, ...] = ("tcp", "udp") if scheme is None else ("tcp",) if scheme == "tcp" else ("udp",)
    return AddressRule(network, protocols, ports or ALL_PORTS)


def _name(target: str, scheme: str | None, ports: Ports | None) -> NameRule:
    if target in ("*", "*."):
        raise _Wrong("it is everything", 'Say `{"mode": "allow_all"}`, or `"public": true` beside the rules.')
    wildcard = target.startswith("*.")
    name = clean_name(target[2:] if wildcard else target)
    if name is None or target.endswith(".."):
        hint = "Names in other scripts are written in their `xn--` form." if not target.isascii() else None
        raise _Wrong(f"{target} is no host name", hint or "`*` may stand for the first part only: `*.example.com`.")
    if "." not in name:
        if wildcard:
            raise _Wrong("it is a whole top-level domain", f"Name what is meant: `*.example.{name}`.")
        raise _Wrong("a name has two parts at least", "Names of policies go into `policies` of a sandbox's network.")
    if scheme == "udp":
        raise _Wrong("UDP cannot be judged by its name", "Allow its address: `udp://192.0.2.1:123`.")
    listed = ports or NAME_PORTS
    if any(low != high for low, high in listed):
        raise _Wrong("a name has no ranges of ports", "List them: `example.com:8000,8001`.")
    return NameRule(name, wildcard, tuple(low for low, _ in listed))
