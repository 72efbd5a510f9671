"""Header rules: headers that requests of a sandbox to a host get on their way out, whatever the sandbox sends. A value
may refer to secrets and to identity tokens, as E2B's clients write it: `Bearer ${e2b.secrets.openai-key}`,
`Bearer ${e2b.identity.tokens.aws}`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from hutch.errors import HutchError, InvalidRequest
from hutch.model.common import Model
from hutch.model.secret import UNFIT, SecretHost, parse_host

MAX_HEADER_RULES = 32
"""Hosts of one sandbox."""
_FIELD = "network.rules"
_MOST_TEXT, _MOST_REFERENCES = 32 << 10, 16
"""Of all rules of one sandbox, characters and references to secrets: the broker is told of them in one line, with the
values in them, each of which may have 8192 characters."""
_MOST_HEADERS, _LONGEST = 32, 8192
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_OURS = frozenset(("accept-encoding", "keep-alive", "proxy-connection", "proxy-authorization", "sec-websocket-key"))
"""Headers that are the broker's to say, or of one connection."""
_MARKER = re.compile(r"\$\{e2b\.secrets\.([^{}]{1,128})\}")
_TOKEN = re.compile(r"\$\{e2b\.identity\.tokens\.([^{}]{1,128})\}")
_TOKEN_BYTES = re.compile(_TOKEN.pattern.encode())


def _tls_host(text: str) -> str:
    try:
        return parse_host(text).text
    except HutchError as error:
        hint = "It is a name, or `*.` and a name."
        raise InvalidRequest(f"{_FIELD}: {error.detail}", hint=hint, field=_FIELD, value=text[:200]) from error


class HeaderRule(Model):
    """For one host, or all names below one."""

    host: Annotated[str, AfterValidator(_tls_host)]
    headers: dict[str, str] = Field(max_length=_MOST_HEADERS)
    audiences: dict[str, str] = Field({}, description="Of the identity tokens that it refers to, by their names.")

    @model_validator(mode="after")
    def _fits(self) -> HeaderRule:
        for name, value in self.headers.items():
            what = _wrong(name, value, self.audiences)
            if what is not None:
                raise InvalidRequest(f"{_FIELD}: {self.host}: {what}", field=_FIELD, value=name[:128])
        return self

    @property
    def secrets(self) -> list[str]:
        """Names of the secrets that it refers to."""
        return list(dict.fromkeys(name for value in self.headers.values() for name in _names(value)))

    @property
    def tokens(self) -> dict[str, str]:
        """Audiences of the identity tokens that its headers have, by their names."""
        return {name: self.audiences[name] for value in self.headers.values() for name in _TOKEN.findall(value)}


def check_together(rules: Sequence[HeaderRule]) -> None:
    """Whether one sandbox can have them all. Raises `InvalidRequest`."""
    pairs = [pair for rule in rules for pair in rule.headers.items()]
    references = sum(len(_names(value)) + len(_TOKEN.findall(value)) for _, value in pairs)
    if sum(len(name) + len(value) for name, value in pairs) > _MOST_TEXT or references > _MOST_REFERENCES:
        raise InvalidRequest(
            f"{_FIELD}: all headers together have at most {_MOST_TEXT} characters, and refer to secrets "
            f"and tokens at most {_MOST_REFERENCES} times",
            field=_FIELD,
        )


def filled(value: str, secrets: Mapping[str, str]) -> str:
    """The value with secrets in the place of references. Raises `KeyError` for one that is not there."""
    return _MARKER.sub(lambda found: secrets[found[1].lower()], value)


def with_tokens(value: bytes, tokens: Mapping[str, bytes]) -> bytes:
    """The value with identity tokens in the place of references. Raises `KeyError` for one that is not there."""
    return _TOKEN_BYTES.sub(lambda found: tokens[found[1].decode()], value)


def rule_for(hosts: Sequence[SecretHost], name: str, port: int) -> int | None:
    """Which of the hosts' rules is for this place: the exact one, else the longest wildcard; None: no rule is."""
    found = [(host.wildcard, -len(host.name), at) for at, host in enumerate(hosts) if host.covers(name, port)]
    return min(found)[2] if found else None


def _names(value: str) -> list[str]:
    return [found.lower() for found in _MARKER.findall(value)]


def _wrong(name: str, value: str, tokens: Mapping[str, str]) -> str | None:
    """What is said of the name only: values may be secrets."""
    if not _NAME.fullmatch(name):
        return f"{name[:64]!r} is no name of a header"
    if name.lower() in UNFIT | _OURS:
        return f"the header {name} cannot be set"
    if len(value) > _LONGEST or not (value.isascii() and value.isprintable() and value == value.strip()):
        return f"the value of {name} has to be printable ASCII, without blanks around it, at most {_LONGEST} characters"
    if unknown := [each for each in _TOKEN.findall(value) if each not in tokens]:
        return f"the value of {name} refers to an identity token that the sandbox was not made with: {unknown[0]}"
    if "${e2b." in _TOKEN.sub("", _MARKER.sub("", value)):
        return f"the value of {name} refers to something else than a secret (`${{e2b.secrets.NAME}}`) or a token"
    return None
