"""Network policies: what a sandbox may reach."""

from __future__ import annotations

from functools import cached_property
from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hutch.errors import InvalidPolicy
from hutch.model.common import Model
from hutch.model.rules import CLOSED, AddressRule, NameRule, parse_rule

MAX_RULES = 256
MAX_NAME_SERVERS = 10

POLICY_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


def _canonical(text: str) -> str:
    return parse_rule(text).text


def _addresses(text: str) -> str:
    rule = parse_rule(text, field="network.deny", open_to_all=True)
    if not isinstance(rule, AddressRule) or not rule.everything:
        raise InvalidPolicy(
            f"{text[:200]} cannot be denied: `deny` takes addresses and networks, without protocol and port",
            hint="Names are not reached unless `allow` or `public` lets them: leave out what is not wanted.",
            field="network.deny",
            value=text[:200],
        )
    return rule.text


def _name_server(text: str) -> str:
    try:
        address = IPv4Address(text)
        wrong = "it is not public" if any(address in network for network in CLOSED) else ""
    except ValueError:
        wrong = "it is no IPv4 address"
    if wrong:
        raise InvalidPolicy(
            f"{text[:64]} cannot be a name server of a sandbox: {wrong}",
            hint="Name servers are public addresses, such as 9.9.9.9; they are asked on port 53.",
            field="network.name_servers",
            value=text[:64],
        )
    return str(address)


class DenyAll(Model):
    """Nothing but the node's LLM gateway."""

    mode: Literal["deny_all"] = "deny_all"


class AllowAll(Model):
    """Everything but private ranges, cloud metadata and the node's own services."""

    mode: Literal["allow_all"] = "allow_all"


class NetworkLimits(Model):
    """How much network one sandbox may use; more is refused or slowed down, never stored up."""

    connections: int = Field(256, ge=1, le=4096, description="Connections at once.")
    new_connections: int = Field(100, ge=1, le=2000, description="New connections a second; twice as many in a burst.")
    mbit: int | None = Field(None, ge=1, le=100_000, description="Megabits a second, each way; unset: not capped.")


class NetworkRules(Model):
    """What is listed, and nothing else: each rule `[tcp://|udp://]name|*.name|address|network[:ports]`."""

    mode: Literal["rules"] = "rules"
    allow: list[Annotated[str, AfterValidator(_canonical)]] = Field(
        [],
        max_length=MAX_RULES,
        description="Such as `pypi.org`, `*.github.com:443`, `140.82.112.0/20:22`, `udp://9.9.9.9:123`. A name without "
        "ports is reached on 80 and 443, an address without ports on all.",
    )
    deny: list[Annotated[str, AfterValidator(_addresses)]] = Field(
        [], max_length=MAX_RULES, description="Addresses and networks that `public` does not open; `allow` goes first."
    )
    public: bool = Field(False, description="Besides, all that `allow_all` reaches, but for `deny`.")
    policies: list[Annotated[str, Field(pattern=POLICY_NAME)]] = Field(
        [], max_length=16, description="Named policies whose rules count besides `allow`."
    )
    name_servers: list[Annotated[str, AfterValidator(_name_server)]] = Field(
        [],
        max_length=MAX_NAME_SERVERS,
        description="Public IPv4 addresses: who is asked for the names that are allowed, instead of the host's name "
        "server. Questions that the sandbox sends to their port 53 are answered so, too; nothing else is opened.",
    )
    limits: NetworkLimits = NetworkLimits()

    @cached_property
    def names(self) -> list[NameRule]:
        """The rules about names."""
        return [rule for rule in map(parse_rule, self.allow) if isinstance(rule, NameRule)]

    @cached_property
    def addresses(self) -> list[AddressRule]:
        """The rules about addresses."""
        return [rule for rule in map(parse_rule, self.allow) if isinstance(rule, AddressRule)]


NetworkPolicy = Annotated[DenyAll | AllowAll | NetworkRules, Field(discriminator="mode")]
"""What a sandbox may reach."""
