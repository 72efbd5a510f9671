"""The beginning of a TLS connection, as far as it is not encrypted: which name the guest says it wants.

Nothing is decrypted. What remains to a guest: inside the encrypted part it may name another host that the same server
serves (domain fronting), where the server lets it. A name that is encrypted itself (ECH, ESNI) cannot be judged and
is refused; so is a second hello, which a server may ask for, that names something else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hutch.egress.fence.refusal import Refused
from hutch.model.rules import clean_name

MAX_HELLO = 32 << 10
_MAX_RECORD = 16384 + 256
_CHANGE, _ALERT, _HANDSHAKE, _DATA = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SERVER_NAME, _ECH, _ESNI = 0, 0xFE0D, 0xFFCE
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random number of a server's hello that asks for another one (RFC 8446)."""


class TlsGuard:
    """Lets pass what has been judged; `judge` is given the name, and raises `Refused`."""

    def __init__(self, judge: Callable[[str], None]) -> None:
        self._judge = judge
        self._buffer = bytearray()
        self._message = bytearray()
        self._held = bytearray()
        """Records of a message that is not whole yet."""
        self._name: str | None = None
        self._answer = bytearray()
        self._retried = False
        self.settled = False
        """What follows needs no judging."""

    @property
    def decided(self) -> bool:
        """Whether a name has been let through."""
        return self._name is not None

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on. Raises `Refused`."""
        self._buffer += data
        passed = bytearray()
        while not self.settled and len(self._buffer) >= 5:
            kind, major, length = self._buffer[0], self._buffer[1], int.from_bytes(self._buffer[3:5], "big")
            if not _CHANGE <= kind <= _DATA or major != 3 or not 0 < length <= _MAX_RECORD:
                raise Refused("it is no TLS")
            if len(self._buffer) < 5 + length:
                break
            record = bytes(self._buffer[: 5 + length])
            del self._buffer[: 5 + length]
            passed += self._record(kind, record)
        if self.settled:
            passed += self._held + self._buffer
            self._held.clear()
            self._buffer.clear()
        return bytes(passed)

    def answered(self, data: bytes) -> None:
        """What the server says: once it has accepted the hello, no other one can follow."""
        if self.settled or not self.decided or self._retried:
            return
        self._answer += data[: 64 - len(self._answer)]
        if len(self._answer) < 43:
            return
        hello = self._answer[0] == _HANDSHAKE and self._answer[5] == _SERVER_HELLO
        self._retried = hello and self._answer[11:43] == _RETRY
        self.settled = not self._retried

    def _record(self, kind: int, record: bytes) -> bytes:
        if self._name is None and kind != _HANDSHAKE:
            raise Refused("it is no TLS")
        if kind != _HANDSHAKE:
            return record
        self._message += record[5:]
        self._held += record
        while len(self._message) >= 4:
            if self._message[0] != _CLIENT_HELLO or (self._name is not None and self._message[1] != 0):
                if self._name is None:
                    raise Refused("it is no TLS")
                self.settled = True  # the older handshake goes on
                break
            length = int.from_bytes(self._message[1:4], "big")
            if length > MAX_HELLO:
                raise Refused("its TLS hello is too long")
            if len(self._message) < 4 + length:
                return b""
            self._hello(bytes(self._message[4 : 4 + length]))
            del self._message[: 4 + length]
        if self._message and not self.settled:
            return b""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _hello(self, hello: bytes) -> None:
        name = server_name(hello)
        if self._name is None:
            self._judge(name)
            self._name = name
        elif name != self._name:
            raise Refused(f"it says {name} after {self._name} on one connection")
        elif self._retried:
            self.settled = True


def server_name(hello: bytes) -> str:
    """The name in a client's hello. Raises `Refused`."""
    try:
        found = _server_name(hello)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise Refused("its TLS hello is damaged") from None
    name = clean_name(found) if found else None
    if found is None:
        raise Refused("its TLS hello has no server name (SNI)")
    if name is None:
        raise Refused(f"the server name (SNI) {found[:100]!r} is no host name")
    return name


def _server_name(hello: bytes) -> str | None:
    at = 34  # version, random
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    if at == len(hello):
        return None
    (total,) = struct.unpack_from(">H", hello, at)
    at += 2
    if at + total != len(hello):
        raise IndexError
    found: dict[int, bytes] = {}
    while at < len(hello):
        kind, length = struct.unpack_from(">HH", hello, at)
        at += 4
        if at + length > len(hello):
            raise IndexError
        if kind in found:
            raise Refused("its TLS hello says something twice")
        found[kind] = hello[at : at + length]
        at += length
    if _ECH in found or _ESNI in found:
        raise Refused("its server name is encrypted (ECH)")
    if _SERVER_NAME not in found:
        return None
    names = found[_SERVER_NAME]
    total, kind, length = struct.unpack_from(">HBH", names)
    if kind != 0 or total != len(names) - 2 or length != total - 3:
        raise Refused("its TLS hello has not just one server name (SNI)")
    return names[5:].decode("ascii")
