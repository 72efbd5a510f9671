"""What the server gives a node so that a sandbox can use secrets: on the way there, and in memory, only."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field, SecretStr, field_serializer

from hutch.model.common import Model
from hutch.model.headers import MAX_HEADER_RULES
from hutch.model.network import AllowAll, DenyAll, NetworkLimits, NetworkPolicy, NetworkRules
from hutch.model.rules import NameRule, parse_rule
from hutch.model.secret import MAX_SECRETS, parse_host


class GrantedSecret(Model):
    """One secret, for one sandbox."""

    name: str
    placeholder: SecretStr | None = Field(None, description="None: the guest is given the value itself.")
    value: SecretStr | None = Field(None, description="None: it was taken back.")
    hosts: list[str] = []
    places: list[str] = []

    @field_serializer("placeholder", "value", when_used="json")
    def _plain(self, secret: SecretStr | None) -> str | None:
        # Goes over the node's Unix socket, and to a tmpfs; never to a log.
        return secret.get_secret_value() if secret is not None else None


class GrantedHeaders(Model):
    """A header rule (`hutch.model.headers`), for one sandbox."""

    host: str
    headers: dict[str, SecretStr] = Field(description="As they are sent.")
    secrets: dict[str, SecretStr] = Field({}, description="Those that stand in them: what must not come back.")
    tokens: dict[str, str] = Field({}, description="Audiences of the identity tokens that they refer to, by name.")
    missing: list[str] = Field([], description="Secrets that should, and that there are not: nothing is sent.")

    @field_serializer("headers", "secrets", when_used="json")
    def _plain(self, values: dict[str, SecretStr]) -> dict[str, str]:
        return {name: value.get_secret_value() for name, value in values.items()}


class SecretGrant(Model):
    """All of one sandbox, and the authority that it trusts for their hosts."""

    authority: str = Field(description="A certificate, in PEM form.")
    key: SecretStr = Field(description="Its key, in PEM form.")
    hosts: list[str] = Field(description="All that it can vouch for: connections there go through the broker.")
    secrets: list[GrantedSecret] = Field(max_length=MAX_SECRETS)
    headers: list[GrantedHeaders] = Field([], max_length=MAX_HEADER_RULES)

    @field_serializer("key", when_used="json")
    def _key(self, key: SecretStr) -> str:
        return key.get_secret_value()


class BrokeredRules(NetworkRules):
    """Rules of a sandbox with secrets, as the node enforces them."""

    brokered: list[str] = Field([], description="Hosts (`SecretHost`) to which connections go through the broker.")

    @cached_property
    def led(self) -> list[NameRule]:
        """Where all that is public is open, and so has no rule: rules about these hosts, which lead connections to the
        broker and open nothing by themselves."""
        rules = [parse_rule(parse_host(host).rule) for host in self.brokered] if self.public else []
        return [rule for rule in rules if isinstance(rule, NameRule)]

    @cached_property
    def names(self) -> list[NameRule]:
        """The rules about names, and those that only lead."""
        allowed = [rule for rule in map(parse_rule, self.allow) if isinstance(rule, NameRule)]
        return [*allowed, *self.led]


NodePolicy = Annotated[DenyAll | AllowAll | BrokeredRules, Field(discriminator="mode")]
"""What a sandbox may reach, as its node is told."""


def brokered(policy: NetworkPolicy, hosts: list[str]) -> NetworkPolicy:
    """The policy with these hosts led through the broker, as far as it lets them be reached at all."""
    if not hosts or policy.mode == "deny_all":
        return policy
    if isinstance(policy, AllowAll):
        policy = NetworkRules(public=True, limits=NetworkLimits(connections=1024, new_connections=250))
    return BrokeredRules(**policy.model_dump() | {"brokered": hosts})
