"""Puts values in the place of placeholders in the head of a request, where the secrets allow it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote_from_bytes, unquote_to_bytes

from hutch.egress.broker.forms import forms_of
from hutch.egress.broker.refusal import Misplaced, Refused
from hutch.egress.broker.tokens import Tokens
from hutch.http1.heads import Request
from hutch.model.headers import with_tokens

_BEARERS = (b"bearer", b"token")
"""Schemes of `Authorization` that carry a token and nothing else; the second is GitHub's older one."""
_DECODINGS = 3
"""How often a target may be percent-encoded before a placeholder in it is not found any more."""


@dataclass(frozen=True)
class Use:
    """A secret that is for the host of a connection."""

    name: str
    placeholder: bytes
    value: bytes = field(repr=False)
    places: frozenset[str]

    @cached_property
    def forms(self) -> tuple[bytes, ...]:
        """What must not come back."""
        return forms_of(self.value, self.places)


@dataclass(frozen=True)
class Given:
    """Headers that each request to the host of a connection gets, in the place of the sandbox's own."""

    fields: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    secrets: Mapping[str, bytes] = field(repr=False)
    """What stands in them."""
    missing: tuple[str, ...] = ()
    """Secrets that should, and that there are not."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Audiences of the identity tokens that they refer to, by name."""

    def put(self, done: Swapped, tokens: Tokens) -> None:
        """Raises `Refused`."""
        if self.missing:
            reason = f"its rule for this host refers to a secret that there is not: {', '.join(self.missing)}"
            raise Refused(403, reason, self.missing[0])
        names = {name.lower() for name, _ in self.fields}
        request = done.request
        fields = [each for each in request.fields if each[0].lower() not in names]
        held = {name: tokens.now(audience) for name, audience in self.tokens.items()}
        given = [(name, with_tokens(value, held) if held else value) for name, value in self.fields]
        done.request = Request(request.method, request.target, request.minor, [*fields, *given])
        done.used.update(self.secrets)
        done.told.update(self.secrets.values())


@dataclass
class Swapped:
    """The request as it goes on, and what was put into it."""

    request: Request
    used: set[str]
    told: set[bytes] = field(repr=False)
    """What must not come back: the values that are for the host, and forms in which they went out."""


class Swapper:
    """For one host. `here`: what is for it; `placeholders`: all of the sandbox, with the secrets' names; `given`: what
    is put into each request."""

    def __init__(
        self,
        here: list[Use],
        placeholders: Mapping[bytes, str],
        given: Given | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._here = here
        self.placeholders = placeholders
        self._given = given
        self._tokens = tokens or Tokens()

    def swap(self, request: Request) -> Swapped:
        """Raises `Misplaced` when a placeholder is anywhere else, `Refused` when what the host gets is not there."""
        done = Swapped(request, set(), {form for use in self._here for form in use.forms})
        fields = [(key, self._field(key, value, done)) for key, value in request.fields]
        target = self._target(request.target, done)
        done.request = Request(request.method, target, request.minor, fields)
        self._check(done.request)
        if self._given is not None:
            self._given.put(done, self._tokens)
        return done

    def _field(self, key: bytes, value: bytes, done: Swapped) -> bytes:
        name = key.lower()
        if name == b"authorization":
            scheme, blank, credential = value.partition(b" ")
            if scheme.lower() in _BEARERS:
                value = scheme + blank + self._bearer(credential.strip(), done)
            elif scheme.lower() == b"basic":
                value = scheme + blank + self._basic(credential.strip(), done)
        for use in self._here:
            if f"header:{name.decode('latin-1')}" in use.places and use.placeholder in value:
                value = value.replace(use.placeholder, use.value)
                done.used.add(use.name)
        return value

    def _bearer(self, credential: bytes, done: Swapped) -> bytes:
        for use in self._here:
            if "bearer" in use.places and credential == use.placeholder:
                done.used.add(use.name)
                return use.value
        return credential

    def _basic(self, credential: bytes, done: Swapped) -> bytes:
        parts = _decoded(credential)
        if parts is None:
            return credential
        for at, part in enumerate(parts):
            for use in self._here:
                if "basic" in use.places and part == use.placeholder:
                    parts[at] = use.value
                    done.used.add(use.name)
        encoded = base64.b64encode(b":".join(parts))
        if encoded != credential:
            done.told.add(encoded)
        return encoded

    def _target(self, target: bytes, done: Swapped) -> bytes:
        path, mark, query = target.partition(b"?")
        parts = [self._parameter(part, done) for part in query.split(b"&")]
        return path + mark + b"&".join(parts)

    def _parameter(self, part: bytes, done: Swapped) -> bytes:
        key, equals, value = part.partition(b"=")
        name = unquote_to_bytes(key).decode("latin-1")
        for use in self._here:
            if f"query:{name}" in use.places and unquote_to_bytes(value) == use.placeholder:
                done.used.add(use.name)
                quoted = quote_from_bytes(use.value, safe="").encode()
                done.told.add(quoted)
                return key + equals + quoted
        return part

    def _check(self, request: Request) -> None:
        path, _, query = request.target.partition(b"?")
        self._look([request.method], "the method")
        self._look(_forms(path), "the path")
        self._look(_forms(query), "the query")
        for key, value in request.fields:
            name = key.decode("latin-1")[:64]
            self._look([key], "a header's name")
            texts = [value]
            scheme, _, credential = value.partition(b" ")
            if scheme.lower() == b"basic":
                texts += _decoded(credential.strip()) or []
            self._look(texts, f"the header {name}")

    def _look(self, texts: list[bytes], where: str) -> None:
        for placeholder, name in self.placeholders.items():
            if any(placeholder in text for text in texts):
                raise Misplaced(name, where)


def _forms(text: bytes) -> list[bytes]:
    """As it is, and decoded."""
    forms = [text]
    for _ in range(_DECODINGS):
        if b"%" in forms[-1]:
            forms.append(unquote_to_bytes(forms[-1]))
    return forms


def _decoded(credential: bytes) -> list[bytes] | None:
    """User and password; None for what is no credential of the scheme Basic."""
    try:
        user, colon, password = base64.b64decode(credential, validate=True).partition(b":")
    except binascii.Error:
        return None
    return [user, password] if colon else [user]
