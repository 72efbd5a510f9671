"""Secrets of an organisation: credentials that sandboxes use and never see."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, field_serializer, model_validator

from hutch.errors import InvalidRequest
from hutch.model.common import Model
from hutch.model.rules import NameRule, parse_rule

SECRET_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"  # noqa: S105
SecretName = Annotated[str, Field(pattern=SECRET_NAME)]
MAX_SECRETS = 16
"""Of one sandbox."""
MAX_HOSTS = 32
SHORTEST, LONGEST = 8, 8192
"""Characters of a value. A shorter one would be found by chance in what it has nothing to do with."""

ENV = "env"
_TLS_PORT = 443
_PLACE = re.compile(r"bearer|basic|env|header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}|query:[A-Za-z0-9._~-]{1,128}")
UNFIT = frozenset(("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te", "trailer"))
"""Headers that say how a request is read."""


class SecretHost:
    """One entry of `hosts`: a name, or all names below one, on some ports."""

    def __init__(self, rule: NameRule) -> None:
        self.name, self.wildcard = rule.name, rule.wildcard
        self.ports = (_TLS_PORT,) if rule.ports == (80, 443) else rule.ports

    @property
    def text(self) -> str:
        """As it is written shortest."""
        target = f"*.{self.name}" if self.wildcard else self.name
        return target + ("" if self.ports == (_TLS_PORT,) else f":{','.join(map(str, self.ports))}")

    @property
    def rule(self) -> str:
        """The network rule that lets through just this."""
        return f"{'*.' * self.wildcard}{self.name}:{','.join(map(str, self.ports))}"

    def covers(self, name: str, port: int) -> bool:
        """Whether it is about this name, which is in small letters, on this port."""
        return port in self.ports and self.named(name)

    def named(self, name: str) -> bool:
        """The same, whatever the port."""
        return name.endswith(f".{self.name}") if self.wildcard else name == self.name


def parse_host(text: str) -> SecretHost:
    """Raises `InvalidPolicy`, `InvalidRequest`."""
    rule = parse_rule(text, field="hosts")
    if not isinstance(rule, NameRule):
        hint = "TLS proves names: give the host's."
        raise InvalidRequest(f"{text[:200]} is an address", hint=hint, field="hosts", value=text[:200])
    host = SecretHost(rule)
    if 80 in host.ports:
        hint = "Give the port on which it speaks TLS, such as `example.com:8443`; without one it is 443."
        raise InvalidRequest(f"{text[:200]}: secrets are sent by TLS only", hint=hint, field="hosts", value=text[:200])
    return host


def _host(text: str) -> str:
    return parse_host(text).text


def _place(text: str) -> str:
    kind, colon, name = text.partition(":")
    place = f"{kind.lower()}{colon}{name.lower() if kind.lower() == 'header' else name}"
    if not _PLACE.fullmatch(place) or name.lower() in UNFIT:
        raise InvalidRequest(
            f"{text[:200]!r} is no place for a secret",
            hint="It is `bearer`, `basic`, `header:NAME`, `query:NAME` or `env`.",
            field="places",
            value=text[:200],
        )
    return place


class PutSecret(Model):
    """`PUT /v1/secrets/{name}`."""

    value: SecretStr = Field(description="What is kept. No call answers it, ever.")
    hosts: list[Annotated[str, AfterValidator(_host)]] = Field(
        [],
        max_length=MAX_HOSTS,
        description="Where it may be sent: `api.github.com`, `*.example.com`, `example.com:8443`. Over TLS only.",
    )
    places: list[Annotated[str, AfterValidator(_place)]] = Field(
        ["bearer", "basic"],
        min_length=1,
        max_length=8,
        description="Where in a request its placeholder is swapped: `bearer` and `basic` (of `Authorization`), "
        "`header:NAME`, `query:NAME`. Or `env`: the sandbox is given the value itself.",
    )

    @field_serializer("value", when_used="json")
    def _value(self, value: SecretStr) -> str:
        return value.get_secret_value()  # from the client to the server; never to a log

    @model_validator(mode="after")
    def _fits(self) -> PutSecret:
        check_value(self.value.get_secret_value(), plain=ENV in self.places)
        if ENV not in self.places and not self.hosts:
            hint = "Say where it may be sent (`hosts`), or that sandboxes are given it as it is (`places: [env]`)."
            raise InvalidRequest("a secret is for some hosts", hint=hint, field="hosts")
        if ENV in self.places and (self.hosts or len(self.places) > 1):
            hint = "What a sandbox is given as it is, it can send anywhere: leave out `hosts` and other places."
            raise InvalidRequest("`env` goes with nothing else", hint=hint, field="places")
        return self


def check_value(value: str, *, plain: bool) -> None:
    """Whether it can be kept; `plain`: as a variable, else also in a header. Raises `InvalidRequest`, which does not
    say what it is."""
    if not SHORTEST <= len(value) <= LONGEST:
        what = f"a value has {SHORTEST} to {LONGEST} characters, not {len(value)}"
    elif "\0" in value:
        what = "a value has no NUL"
    elif not plain and not (value.isascii() and value.isprintable() and value == value.strip()):
        what = "a value that goes into requests is of printable ASCII, without line ends and blanks around it"
    else:
        return
    raise InvalidRequest(what, field="value")


class Secret(Model):
    """A secret without its value."""

    name: str = Field(description="Also of the variable in which sandboxes have its placeholder.")
    hosts: list[str]
    places: list[str]
    created_at: datetime
    updated_at: datetime = Field(description="When it was set last.")
