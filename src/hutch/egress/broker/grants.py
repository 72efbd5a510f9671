"""What each sandbox may use, made ready for its connections."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Sized
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from hutch.egress.broker.swapping import Given, Swapper, Use
from hutch.egress.broker.tokens import Tokens
from hutch.egress.fence.bucket import Bucket
from hutch.model.grant import GrantedHeaders, GrantedSecret, SecretGrant
from hutch.model.headers import rule_for
from hutch.model.secret import SecretHost, parse_host
from hutch.shares import Shares
from hutch.tls.authority import dump_key
from hutch.tls.minting import Authority

if TYPE_CHECKING:
    from hutch.egress.broker.session import Session

MAX_SESSIONS = (1024, 64)
"""Connections at once, of all sandboxes and of one. TLS on both sides takes half a mebibyte, and what waits for a side
that is slow as much again: together not more than `MEMORY`."""
MEMORY = 2 << 30
MAX_CONTEXTS = (8192, 64)
"""Names whose certificates are kept, of all sandboxes and of one; each takes some 26 KiB."""
_FRESH_SECONDS = 86400.0
_FORMER = 16
"""Values that a sandbox could use before, and that are still kept from it."""
SHARE = (0.3, 1.0)
"""Seconds of CPU a second, and in a burst, for reading what one sandbox sends, and what hosts send to it: all others
wait meanwhile."""


class Granted:
    """One sandbox, with its sessions."""

    def __init__(self, id: str, grant: SecretGrant, leaf: ec.EllipticCurvePrivateKey, room: Room) -> None:
        self.id = id
        self._room = room
        self.sessions: set[Session] = set()
        self.share = Bucket(*SHARE)
        self._leaf = leaf
        self._contexts: dict[str, tuple[float, ssl.SSLContext]] = {}
        self._authority: Authority
        self._told = ""
        self._uses: list[tuple[list[SecretHost], Use]] = []
        self._former: list[tuple[list[SecretHost], Use]] = []
        self._given: list[Given] = []
        self.tokens = Tokens()
        self._sent: set[str] = set()
        self.change(grant)

    def change(self, grant: SecretGrant) -> None:
        """Use this from now on. Raises `ValueError`."""
        if grant.authority != self._told:
            self._authority = Authority.load(grant.authority, grant.key.get_secret_value())
            self._told = grant.authority
            self.forget()
        self._hosts = list(map(parse_host, grant.hosts))
        self._placeholders = {_bytes(each.placeholder): each.name for each in grant.secrets}
        usable = [each for each in grant.secrets if each.value is not None]
        uses = [(list(map(parse_host, each.hosts)), _use(each)) for each in usable]
        now = {use.value for _, use in uses}
        self._former = [each for each in (*self._former, *self._uses) if each[1].value not in now][-_FORMER:]
        self._uses = uses
        self._ruled = [parse_host(each.host) for each in grant.headers]
        self._given = [_given(each) for each in grant.headers]
        for session in self.sessions:
            session.keep_out(self.masked(session.name))

    @property
    def full(self) -> bool:
        """Whether there is no room for another session."""
        return not self._room.sessions.may(self.id)

    def begin(self, session: Session) -> None:
        """It has a session more. There must be room for it."""
        taken = self._room.sessions.take(self.id)
        assert taken, "who begins one has asked whether it is full"
        self.sessions.add(session)

    def end(self, session: Session) -> None:
        """It is no more."""
        if session in self.sessions:
            self.sessions.remove(session)
            self._room.sessions.give(self.id)

    def vouches(self, name: str, port: int) -> bool:
        """Whether connections to this host are opened here, whatever is left to use on them."""
        return any(host.covers(name, port) for host in self._hosts)

    def swapper(self, name: str, port: int) -> Swapper:
        """For requests to this host, as things are now."""
        here = [use for hosts, use in self._uses if any(host.covers(name, port) for host in hosts)]
        return Swapper(here, self._placeholders, self._rule(name, port), self.tokens)

    def lacking(self, name: str, port: int) -> list[str]:
        """Audiences of the identity tokens that are to be fetched before a request to this host."""
        rule = self._rule(name, port)
        return self.tokens.lacking(set(rule.tokens.values())) if rule is not None and rule.tokens else []

    def _rule(self, name: str, port: int) -> Given | None:
        rule = rule_for(self._ruled, name, port)
        return self._given[rule] if rule is not None else None

    def masked(self, name: str) -> set[bytes]:
        """What must not come from this host, on whatever connection: the values that are or were for it, and those in
        its rule."""
        forms = {form for _, use in self._about(name) for form in use.forms}
        ruled = [given for host, given in zip(self._ruled, self._given, strict=True) if host.named(name)]
        return forms | {value for given in ruled for value in given.secrets.values()}

    def sent(self, name: str) -> None:
        """This secret has gone to a host."""
        self._sent.add(name)

    def wary(self, name: str) -> bool:
        """Whether this host may know a value from this sandbox, by whatever connection."""
        return any(use.name in self._sent for _, use in self._about(name))

    def _about(self, name: str) -> list[tuple[list[SecretHost], Use]]:
        return [each for each in (*self._uses, *self._former) if any(host.named(name) for host in each[0])]

    def watcher(self) -> Swapper:
        """For requests that nothing may be put into."""
        return Swapper([], self._placeholders)

    def context(self, name: str) -> ssl.SSLContext:
        """To end the TLS of connections to this host with. Its name was judged before."""
        made, context = self._contexts.get(name, (0.0, None))
        if context is None or made < time.monotonic() - _FRESH_SECONDS:
            context = server_context(self._authority.issue(name, self._leaf) + dump_key(self._leaf))
            self._keep(name, context)
        return context

    def forget(self) -> None:
        """Keep no certificates."""
        self._room.contexts.give(self.id, len(self._contexts))
        self._contexts.clear()

    def _keep(self, name: str, context: ssl.SSLContext) -> None:
        room = self._room.contexts
        if self._contexts.pop(name, None) is not None:
            room.give(self.id)
        while not room.may(self.id) and self._contexts:
            del self._contexts[next(iter(self._contexts))]
            room.give(self.id)
        if room.take(self.id):
            self._contexts[name] = (time.monotonic(), context)


class Room:
    """What the process has for all sandboxes."""

    def __init__(self, among: Sized) -> None:
        self.sessions = Shares(*MAX_SESSIONS, among)
        self.contexts = Shares(*MAX_CONTEXTS, among)


class Grants:
    """Those of all sandboxes of the node."""

    def __init__(self) -> None:
        self._of: dict[str, Granted] = {}
        self._leaf = ec.generate_private_key(ec.SECP256R1())
        self._room = Room(self._of)

    def put(self, id: str, grant: SecretGrant) -> None:
        """Raises `ValueError`."""
        if id in self._of:
            self._of[id].change(grant)
        else:
            self._of[id] = Granted(id, grant, self._leaf, self._room)

    def forget(self, id: str) -> None:
        granted = self._of.pop(id, None)
        if granted is None:
            return
        for session in list(granted.sessions):
            session.end()
        granted.forget()

    def find(self, id: str) -> Granted | None:
        return self._of.get(id)


def _use(secret: GrantedSecret) -> Use:
    return Use(secret.name, _bytes(secret.placeholder), _bytes(secret.value), frozenset(secret.places))


def _given(headers: GrantedHeaders) -> Given:
    fields = tuple((name.encode(), _bytes(value)) for name, value in headers.headers.items())
    secrets = {name: _bytes(value) for name, value in headers.secrets.items()}
    return Given(fields, secrets, tuple(headers.missing), headers.tokens)


def _bytes(secret: SecretStr | None) -> bytes:
    assert secret is not None
    return secret.get_secret_value().encode()


def server_context(pem: bytes) -> ssl.SSLContext:
    """For a chain and its key. HTTP/1.1 only: in HTTP/2 a request says once more which host it is for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    descriptor = os.memfd_create("certificate")  # `ssl` reads files only, and no key shall lie on a disk
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
