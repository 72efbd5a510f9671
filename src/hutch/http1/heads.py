"""Heads of HTTP/1.1 messages, read strictly: what two programs could understand in two ways is refused, since behind us
stands another parser, and a token that we add."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_HEAD = 64 << 10

_REQUEST = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_FRAMING = (b"content-length", b"transfer-encoding")
_LENGTH = re.compile(rb"[0-9]{1,18}")

HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"))
"""Of one connection: not passed on."""

Fields = list[tuple[bytes, bytes]]


class BadHead(Exception):
    """It is no HTTP, or too much of it. The message is for a person."""


@dataclass
class Request:
    """The head of a request. Names of fields are as they were sent; look them up in small letters."""

    method: bytes
    target: bytes
    """Path and query."""
    minor: int
    fields: Fields

    def get(self, name: bytes) -> bytes | None:
        """The value of a field; None when it is missing or not told once."""
        found = values(self.fields, name)
        return found[0] if len(found) == 1 else None

    @property
    def path(self) -> bytes:
        """The path as it was sent, without the query."""
        return self.target.partition(b"?")[0]

    @property
    def upgrades(self) -> bool:
        """Whether another protocol is asked for on this connection."""
        return b"upgrade" in tokens(self.fields, b"connection") and self.get(b"upgrade") is not None

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on this connection."""
        return self.minor == 1 and b"close" not in tokens(self.fields, b"connection")


@dataclass
class Answer:
    """The head of a response."""

    status: int
    reason: bytes
    minor: int
    fields: Fields

    @property
    def keeps_alive(self) -> bool:
        """Whether its connection may be used again."""
        said = tokens(self.fields, b"connection")
        return b"keep-alive" in said if self.minor == 0 else b"close" not in said


def values(fields: Fields, name: bytes) -> list[bytes]:
    """All values of a field."""
    return [value for key, value in fields if key.lower() == name]


def tokens(fields: Fields, name: bytes) -> set[bytes]:
    """The elements of a field that is a list, in small letters."""
    return {token.strip().lower() for value in values(fields, name) for token in value.split(b",")}


def parse_request(head: bytes) -> Request:
    """The head without its empty line. Raises `BadHead`."""
    first, fields = _lines(head)
    match = _REQUEST.fullmatch(first)
    if match is None:
        raise BadHead("this is no HTTP/1.1 request")
    target = match[2]
    if not target.startswith(b"/") and target != b"*":
        scheme, found, rest = target.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            raise BadHead("the request's target is no path")
        target = b"/" + rest.partition(b"/")[2]
    if b"#" in target:  # where the query ends for some, and goes on for others
        raise BadHead("the request's target has a fragment")
    return Request(match[1], target, int(match[3]), fields)


def parse_answer(head: bytes) -> Answer:
    """The head without its empty line. Raises `BadHead`."""
    first, fields = _lines(head)
    match = _STATUS.fullmatch(first)
    if match is None:
        raise BadHead("this is no HTTP/1.1 response")
    return Answer(int(match[2]), match[3] or b"", int(match[1]), fields)


def length_of(fields: Fields) -> int | None:
    """The announced length of the body, -1 when it comes in chunks, None when nothing is said. Raises `BadHead`."""
    lengths = values(fields, b"content-length")
    codings = values(fields, b"transfer-encoding")
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadHead("a body has one Content-Length, or one Transfer-Encoding, which is chunked")
        return -1
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadHead("Content-Length is no number, or told twice")
    return int(lengths[0])


def dump_request(request: Request, fields: Fields) -> bytes:
    """The request with other fields, as it goes onto the wire."""
    return _dump(b"%s %s HTTP/1.%d" % (request.method, request.target, request.minor), fields)


def dump_answer(status: int, reason: bytes, fields: Fields) -> bytes:
    """An answer's head, as it goes onto the wire."""
    return _dump(b"HTTP/1.1 %d %s" % (status, reason), fields)


def _dump(first: bytes, fields: Fields) -> bytes:
    return b"\r\n".join([first, *(b"%s: %s" % field for field in fields), b"", b""])


def _lines(head: bytes) -> tuple[bytes, Fields]:
    first, *rest = head.split(b"\r\n")
    fields: Fields = []
    for line in rest:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadHead("a header line is no `name: value`")
        if match[1].lower().replace(b"_", b"-") in _FRAMING and b"_" in match[1]:  # CGI's names make one of both
            raise BadHead("a header whose name could be taken for one that says how long the body is")
        fields.append((match[1], match[2]))
    return first, fields
