"""Judges one connection: by the address it goes to, and by every name that is said on it."""

from __future__ import annotations

from time import monotonic, thread_time

from hutch.egress.fence.guarded import Guarded
from hutch.egress.fence.refusal import Refused
from hutch.egress.fence.requests import HttpGuard, looks_like_http
from hutch.egress.fence.tls import TlsGuard

MAX_UNDECIDED = 64
"""Connections of one sandbox that have not said yet what they want."""


class Judge:
    """Of one connection; `began` is when, by the event loop's clock: addresses count as they were then."""

    def __init__(self, guarded: Guarded, target: tuple[str, int], began: float) -> None:
        self._guarded = guarded
        self._address, self._port = target
        self._began = began
        self._guard: TlsGuard | HttpGuard | None = None
        self._first = bytearray()
        self._direct: str | None = None
        self._rules: dict[str, str] = {}
        self.said: str | None = None
        """The name that was said last, allowed or not."""
        self.brokered = self.plain = False
        """The broker opens it; or it is not encrypted, and the broker looks through it."""
        self.settled = False
        """What the guest still sends needs no judging."""

    @property
    def decided(self) -> bool:
        """Whether something was let through."""
        return self._direct is not None or bool(self._rules)

    @property
    def waiting(self) -> bool:
        """Whether nothing of the guest's passes until the server has answered."""
        return isinstance(self._guard, HttpGuard) and self._guard.waiting

    @property
    def rule(self) -> str | None:
        """The rule that let it through."""
        return self._direct or self._rules.get(self.said or "")

    def admit(self) -> bool:
        """By address and port alone. Whether to connect at once, since it may be the server that speaks first. Raises
        `Refused`."""
        guarded, port = self._guarded, self._port
        most = guarded.permit.limits.connections
        if len(guarded.connections) > most:
            raise Refused(f"more than {most} connections at once")
        names = guarded.names.at(self._address, self._began)
        open_anyway = guarded.permit.direct(self._address, port)
        brokered = any(guarded.permit.brokered(name, port) for name in names)
        if open_anyway is not None and not brokered:
            self._direct, self.settled = open_anyway, True
            return True
        if not any(port in guarded.permit.ports(name) for name in names):
            raise Refused("its address is not that of an allowed name that was just asked for")
        if sum(not each.decided for each in guarded.connections) > MAX_UNDECIDED:
            raise Refused(f"more than {MAX_UNDECIDED} connections that have not said what they want")
        if port == 443 or brokered:
            self._guard = TlsGuard(self._judge)
        elif port == 80:
            self._guard = HttpGuard(self._judge, port)
        return self._guard is None

    def feed(self, data: bytes) -> bytes:
        """What of the guest's bytes may go on. Raises `Refused`."""
        if self.settled:
            return data
        began = thread_time()
        passed = self._pass(data)
        if not self._guarded.judging.spend(monotonic(), thread_time() - began):
            raise Refused("it sends more requests, or smaller pieces, than can be judged")
        return passed

    def _pass(self, data: bytes) -> bytes:
        if self._guard is None:
            self._first += data
            if not self._choose():
                return b""
            data = bytes(self._first)
            self._first.clear()
        if self._guard is None:
            return data
        passed = self._guard.feed(data)
        self.settled = self._guard.settled
        return passed

    def answered(self, data: bytes) -> bytes:
        """The server says this: what was held back of the guest's bytes and may go on. Raises `Refused`."""
        if self._guard is None or self.settled:
            return b""
        self._guard.answered(data)
        return self.feed(b"")

    def again(self) -> None:
        """After a change of the rules. Raises `Refused`."""
        permit = self._guarded.permit
        if self._direct is not None:  # no name of it was ever judged
            self._direct = permit.direct(self._address, self._port)
            still = self._direct is not None
        else:
            still = all(self._rule(name) is not None for name in self._rules)
        names = [self.said] if self.said else self._guarded.names.at(self._address, self._began)
        led = self.brokered or not any(permit.brokered(name, self._port) for name in names)
        if not still or not led:
            raise Refused("its policy has changed")

    def _choose(self) -> bool:
        """On a port of the rule's own: by the first bytes. False while it is too early."""
        if self._first[0] == 22:
            self._guard = TlsGuard(self._judge)
            return True
        http = looks_like_http(bytes(self._first))
        if http:
            self._guard = HttpGuard(self._judge, self._port)
        elif http is False:
            self._let_unnamed()
        return http is not None

    def _let_unnamed(self) -> None:
        """A protocol that says no name: the address has to do. Raises `Refused`."""
        for name in self._guarded.names.at(self._address, self._began):
            if (rule := self._rule(name)) is not None:
                self._rules[name], self.said, self.settled = rule, name, True
                return
        self._direct = self._guarded.permit.direct(self._address, self._port)
        self.settled = self._direct is not None
        if not self.settled:
            raise Refused("its address is not that of an allowed name any more")

    def _judge(self, name: str) -> None:
        """Called by the guards. Raises `Refused`."""
        self.said = name
        permit = self._guarded.permit
        rule = self._rule(name)
        if rule is None:
            raise Refused("not in policy")
        named = permit.rule(name, self._port) is not None
        if named and name not in self._rules and not self._guarded.names.knows(name, self._address, self._began):
            raise Refused(f"{self._address} is not an address that {name} had")
        self.plain = isinstance(self._guard, HttpGuard)
        self.brokered = permit.watched if self.plain else permit.brokered(name, self._port)
        self._rules[name] = rule

    def _rule(self, name: str) -> str | None:
        """By which it may be reached here: by its name, or because the address is open whatever its name."""
        return self._guarded.permit.reached(name, self._address, self._port)
