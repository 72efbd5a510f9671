"""One request on its way through, and what is changed of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from hutch.control.ports import Door
from hutch.control.stdin_log import Source
from hutch.gateway.access import ACCESS_HEADER, TRAFFIC_HEADER
from hutch.gateway.routing import PORT_HEADER, SANDBOX_HEADER, Api, Place
from hutch.http1.framing import Framing, framing_of
from hutch.http1.heads import HOP_BY_HOP, Answer, BadHead, Fields, Request, dump_answer, dump_request, length_of, tokens
from hutch.model import CODE_PORT, GUEST_PORT

_OURS = frozenset((SANDBOX_HEADER, PORT_HEADER, TRAFFIC_HEADER))
_FORWARDED = frozenset((b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"))
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


@dataclass
class Exchange:
    """A request, and where it goes."""

    request: Request
    upload: Framing
    door: Door | None = None
    place: Place | Api | None = None
    client: str = ""
    """Address of who has sent it."""
    held: ExitStack = field(default_factory=ExitStack)
    """Says that the sandbox is used, for as long as a call to its guest lasts."""
    begun: bool = False
    """Something of the answer has gone to the client."""
    source: Source | None = None
    """Whose input of a process it is."""
    last: bool = False
    """No other request goes to the sandbox on its connection: it has a body where some servers read none, and take what
    comes for the next request."""

    @property
    def to_guest(self) -> bool:
        """Whether it is for the guest itself, which never speaks another protocol."""
        return isinstance(self.place, Place) and self.place.port == GUEST_PORT

    @property
    def keeps_connection(self) -> bool:
        """Whether its connection may carry a request that cannot be repeated after another: who listens there closes
        none that is idle."""
        return isinstance(self.place, Place) and self.place.port in (GUEST_PORT, CODE_PORT)

    @property
    def awaits_leave(self) -> bool:
        """Whether the client sends no body before it is told to."""
        expected = self.request.get(b"expect") or b""
        return self.request.minor == 1 and expected.lower() == b"100-continue" and not self.upload.done

    @property
    def upgrades(self) -> bool:
        return self.request.upgrades and not self.to_guest

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time."""
        return self.request.method in _SAFE and self.upload.done and not self.begun

    def head(self, guest_token: str) -> bytes:
        """The request as the sandbox sees it, or the API."""
        request = self.request
        if isinstance(self.place, Api):
            fields = _without(request.fields, _FORWARDED)
            fields += [(b"X-Forwarded-For", self.client.encode()), (b"X-Forwarded-Proto", b"https")]
            return dump_request(request, self._with_upgrade(fields))
        fields = _without(request.fields, _OURS | ({ACCESS_HEADER} if self.keeps_connection else set()))
        if self.to_guest:
            fields.append((b"X-Access-Token", guest_token.encode()))
        elif self.door is not None and self.door.masked_host and self.place is not None:
            host = self.door.masked_host.replace("${PORT}", str(self.place.port)).encode("latin-1", "replace")
            fields = [(b"Host", host), *_without(fields, frozenset((b"host",)))]
        return dump_request(request, self._with_upgrade(fields))

    def _with_upgrade(self, fields: Fields) -> Fields:
        if not self.upgrades:
            return fields
        return [*fields, (b"Connection", b"Upgrade"), (b"Upgrade", self.request.get(b"upgrade") or b"")]


def exchange_of(request: Request) -> Exchange:
    """Raises `BadHead` for a request whose end is not certain."""
    length = length_of(request.fields)
    if length == -1 and request.minor == 0:
        raise BadHead("HTTP/1.0 knows no chunks")
    upload = framing_of(length)
    return Exchange(request, upload, last=not upload.done and request.method not in _WITH_BODY)


def answer_head(answer: Answer, close: bool) -> bytes:
    """The answer's head as the client sees it."""
    fields = _without(answer.fields, frozenset())
    if answer.status == 101:
        upgrade = [value for name, value in answer.fields if name.lower() == b"upgrade"]
        fields += [(b"Connection", b"Upgrade"), *((b"Upgrade", value) for value in upgrade)]
    elif close:
        fields.append((b"Connection", b"close"))
    return dump_answer(answer.status, answer.reason, fields)


def _without(fields: Fields, names: frozenset[bytes] | set[bytes]) -> Fields:
    """Those that are passed on: not what belongs to one connection, nor what its `Connection` names."""
    gone = HOP_BY_HOP | (tokens(fields, b"connection") - {b"content-length", b"transfer-encoding", b"host"}) | names
    return [(name, value) for name, value in fields if name.lower() not in gone]
