"""The messages of gVisor's remote sink: a header, and a message of protocol buffers.

Header, little endian: its own size (16 bits), kind of message (16), events dropped so far (32, wraps). The guest may
have taken over the kernel that writes this: everything is bounded, and a message is read or it is `BadMessage`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

HELLO = b"\x08\x01"
"""Our part of the handshake: version 1, which every release speaks."""
LONGEST = 64 << 10
"""Bytes of a message that are read. Environments come last in it, and are not looked at."""

_HEADER = struct.Struct("<HHI")
_CLONE, _EXECVE, _EXIT, _CONNECT = 2, 3, 4, 10
_PATH, _WORD, _WORDS, _ARGV, _NAME = 512, 256, 32, 1024, 32
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INET, _INET6 = 2, 10
_MAX_PID = (1 << 31) - 1


class BadMessage(ValueError):
    """Not what a kernel would say."""


@dataclass(frozen=True)
class Context:
    """Who has done it."""

    time: float
    pid: int
    uid: int
    cwd: str
    name: str


@dataclass(frozen=True)
class Cloned:
    """A process has made another, or a thread of its own."""

    by: Context
    child: int


@dataclass(frozen=True)
class Executed:
    """A process has become another program."""

    by: Context
    path: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Exited:
    """A process has ended."""

    by: Context


@dataclass(frozen=True)
class Connected:
    """A process has asked for a connection."""

    by: Context
    address: str
    port: int


Said = Cloned | Executed | Exited | Connected


def decode(message: memoryview) -> tuple[int, Said | None]:
    """How many events were dropped so far, and what it says; None for what is of no interest here: another kind of
    message, a connection that is not to an internet address. Raises `BadMessage`."""
    if len(message) < _HEADER.size:
        raise BadMessage("a message without a header")
    size, kind, dropped = _HEADER.unpack_from(message)
    if not _HEADER.size <= size <= len(message):
        raise BadMessage(f"a header of {size} bytes")
    return dropped, _said(kind, message[size:])


def _said(kind: int, body: memoryview) -> Said | None:
    if kind == _CLONE:
        return Cloned(_context(body), _pid(_number(body, 4)))
    if kind == _EXECVE:
        return Executed(_context(body), _text(_first(body, 2), _PATH), _argv(body))
    if kind == _EXIT:
        return Exited(_context(body))
    if kind == _CONNECT and (place := _place(_first(body, 6))) is not None:
        return Connected(_context(body), *place)
    return None


def _context(body: memoryview) -> Context:
    fields = _first(body, 1)
    return Context(
        time=_number(fields, 1) / 1e9,
        pid=_pid(_number(fields, 4)),
        uid=_number(_first(fields, 7), 2) & 0xFFFFFFFF,
        cwd=_text(_first(fields, 8), _PATH),
        name=_text(_first(fields, 9), _NAME),
    )


def _argv(body: memoryview) -> tuple[str, ...]:
    words: list[str] = []
    room = _ARGV
    for number, value in _fields(body):
        if number == 3 and isinstance(value, memoryview):
            if len(words) == _WORDS or room <= 0:
                return (*words, "…")
            words.append(_text(value, min(_WORD, room)))
            room -= len(words[-1])
    return tuple(words)


def _place(address: memoryview) -> tuple[str, int] | None:
    """Of a `sockaddr`: an address that is of this machine alone is of no interest."""
    if len(address) < 8:
        return None
    family, port = address[0] | address[1] << 8, address[2] << 8 | address[3]
    found: IPv4Address | IPv6Address
    if family == _INET:
        found = IPv4Address(bytes(address[4:8]))
    elif family == _INET6 and len(address) >= 24:
        found = IPv6Address(bytes(address[8:24]))
        found = found.ipv4_mapped or found
    else:
        return None
    return None if found.is_loopback or found.is_unspecified else (str(found), port)


def _first(body: memoryview, number: int) -> memoryview:
    """The field of this number, empty when there is none."""
    for found, value in _fields(body):
        if found == number and isinstance(value, memoryview):
            return value
    return memoryview(b"")


def _number(body: memoryview, number: int) -> int:
    for found, value in _fields(body):
        if found == number and isinstance(value, int):
            return value
    return 0


def _pid(number: int) -> int:
    if not 0 < number <= _MAX_PID:
        raise BadMessage(f"process {number}")
    return number


def _text(value: memoryview, most: int) -> str:
    cut = bytes(value[: most + 1]).decode("utf-8", "replace")
    return cut if len(value) <= most else cut[: most - 1] + "…"


def _fields(body: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values. A last one that is cut off is given as far as it goes: long messages are not read to their
    ends."""
    at = 0
    while at < len(body):
        key, at = _varint(body, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(body, at)
            yield number, value
        elif kind == _BYTES:
            length, at = _varint(body, at)
            yield number, body[at : at + length]
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise BadMessage(f"a field of kind {kind}")


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    """The number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(body):
            raise BadMessage("a number that does not end")
        byte = body[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (1 << 64) - 1, at
    raise BadMessage("a number of more than ten bytes")
