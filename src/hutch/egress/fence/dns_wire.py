"""DNS messages as bytes. Of a guest's message only its one question is read; of a name server's answer only the
addresses of the name that was asked for, through its aliases. Nothing else passes in either direction."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

A, CNAME, OPT = 1, 5, 41
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
MAX_PAYLOAD = 1232
_MAX_RECORDS = 64
_MAX_ALIASES = 12
_MAX_POINTERS = 32
_EXTENDED_ERROR, _BLOCKED = 15, 15


class BadMessage(Exception):
    """It is no DNS message, or none that is understood here."""


@dataclass(frozen=True)
class Question:
    """One question of a guest."""

    id: int
    name: str
    """As it was sent, without the dot at its end."""
    kind: int
    recursion: bool
    extended: bool
    """Whether it understands EDNS."""
    raw: bytes
    """The question's section."""


@dataclass(frozen=True)
class Answer:
    """What a name server says about a name."""

    code: int
    addresses: list[str]
    ttl: int
    truncated: bool


def parse_question(data: bytes) -> Question:
    """Raises `BadMessage`."""
    if not 17 <= len(data) <= 512:
        raise BadMessage("its size")
    id, flags, questions, answers, authorities, additional = struct.unpack_from(">6H", data)
    if flags & 0xF800 or (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        raise BadMessage("it is no plain question")
    labels, at = [], 12
    while length := data[at]:
        label = data[at + 1 : at + 1 + length]
        at += 1 + length
        if length > 63 or at >= len(data) or not label.isascii() or b"." in label:
            raise BadMessage("its name")
        labels.append(label.decode("ascii"))
    end = at + 5
    if end > len(data) or end - 17 > 253:
        raise BadMessage("it is cut off")
    kind, family = struct.unpack_from(">HH", data, at + 1)
    if family != IN:
        raise BadMessage("its class")
    extended = additional == 1 and data[end : end + 3] == b"\0\0\x29"
    return Question(id, ".".join(labels), kind, bool(flags & 0x0100), extended, data[12:end])


def answer(question: Question, code: int, addresses: list[str] = [], ttl: int = 0, note: str = "") -> bytes:  # noqa: B006
    """The answer to a guest. `note`: why it is refused, for who reads extended errors."""
    flags = 0x8080 | (0x0100 if question.recursion else 0) | code
    records = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", A, IN, ttl, 4) + socket.inet_aton(address) for address in addresses
    )
    extra = b""
    if question.extended:
        text = note.encode("ascii", "replace")[:200]
        option = struct.pack(">HHH", _EXTENDED_ERROR, 2 + len(text), _BLOCKED) + text if note else b""
        extra = b"\0" + struct.pack(">HHIH", OPT, MAX_PAYLOAD, 0, len(option)) + option
    head = struct.pack(">6H", question.id, flags, 1, len(addresses), 0, 1 if extra else 0)
    return head + question.raw + records + extra


def question(id: int, name: str) -> bytes:
    """A question for the addresses of a name, which is in small letters."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return struct.pack(">6H", id, 0x0100, 1, 0, 0, 1) + labels + struct.pack(
        ">BHH", 0, A, IN
    ) + b"\0" + struct.pack(">HHIH", OPT, MAX_PAYLOAD, 0, 0)  # fmt: skip


def parse_answer(data: bytes, asked: bytes, name: str) -> Answer:
    """The answer to a message of `question`. Raises `BadMessage`, also when it answers something else."""
    try:
        return _parse_answer(data, asked, name)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BadMessage("it is cut off") from error


def parse_told(data: bytes) -> tuple[str, list[str]]:
    """What somebody was told who asked for a name, by whatever name server: the name and, where all of it is there, its
    addresses of IPv4. Raises `BadMessage`."""
    try:
        name, _ = _name(data, 12)
        if len(data) < 12 or not data[2] & 0x80:
            raise BadMessage("it is no answer")
    except (struct.error, IndexError) as error:
        raise BadMessage("it is cut off") from error
    try:
        return name, _parse_answer(data, data[:2], name).addresses
    except (BadMessage, struct.error, IndexError):
        return name, []


def _parse_answer(data: bytes, asked: bytes, name: str) -> Answer:
    id, flags, questions, answers = struct.unpack_from(">4H", data)
    if struct.pack(">H", id) != asked[:2] or not flags & 0x8000 or questions != 1 or answers > _MAX_RECORDS:
        raise BadMessage("it answers nothing that was asked")
    found, at = _name(data, 12)
    if found != name or struct.unpack_from(">HH", data, at) != (A, IN):
        raise BadMessage("it answers another question")
    at += 4
    aliases: dict[str, tuple[str, int]] = {}
    addresses: dict[str, list[tuple[str, int]]] = {}
    for _ in range(answers):
        owner, at = _name(data, at)
        kind, family, ttl, length = struct.unpack_from(">HHIH", data, at)
        at += 10
        if at + length > len(data):
            raise BadMessage("it is cut off")
        if kind == A and family == IN and length == 4:
            addresses.setdefault(owner, []).append((socket.inet_ntoa(data[at : at + 4]), ttl))
        elif kind == CNAME and family == IN:
            aliases[owner] = (_name(data, at)[0], ttl)
        at += length
    ttls = []
    for _ in range(_MAX_ALIASES):
        if name not in aliases:
            break
        name, ttl = aliases[name]
        ttls.append(ttl)
    own = addresses.get(name, [])
    ttls += [ttl for _, ttl in own]
    unique = list(dict.fromkeys(address for address, _ in own))
    return Answer(flags & 0xF, unique, min(ttls, default=0) & 0x7FFFFFFF, bool(flags & 0x0200))


def _name(data: bytes, at: int) -> tuple[str, int]:
    """The name that stands there, in small letters, and where it ends."""
    labels: list[str] = []
    end, jumps, size = None, 0, 0
    while length := data[at]:
        if length & 0xC0 == 0xC0:
            end = end if end is not None else at + 2
            at = struct.unpack_from(">H", data, at)[0] & 0x3FFF
            jumps += 1
            if jumps > _MAX_POINTERS:
                raise BadMessage("its pointers go round")
            continue
        size += length + 1
        if length > 63 or size > 255:
            raise BadMessage("a name is too long")
        labels.append(data[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    return ".".join(labels), end if end is not None else at + 1
