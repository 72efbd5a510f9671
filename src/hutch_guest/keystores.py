"""Java's lists of authorities: reads both of their forms, and writes the older one (JKS), which every version reads
wherever it expects the other.

JKS is: a magic number, a version, a count; of each certificate its alias, a time, its kind and its bytes; and a SHA-1
over all that and a password, which is `changeit` unless somebody has changed it. Nobody needs it for reading.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Sequence

_MAGIC, _VERSION, _TRUSTED = 0xFEEDFEED, 2, 2
_HEAD = struct.Struct(">III")
_DIGEST = 20
_PASSWORD = "changeit".encode("utf-16-be") + b"Mighty Aphrodite"
_KIND = b"X.509"
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_CERTIFICATE = bytes.fromhex("060a2a864886f70d01091601")
"""In PKCS #12 stands before each certificate (the identifier 1.2.840.113549.1.9.22.1), where nothing is encrypted, as
in the lists that come with Java since version 18."""
_CONTEXT, _OCTETS = 0xA0, 0x04


def from_pem(bundle: bytes) -> bytes:
    """A list of all certificates in a text."""
    found = []
    for text in _PEM.findall(bundle):
        try:
            found.append(base64.b64decode(b"".join(text.split()), validate=True))
        except binascii.Error:
            continue
    return _store(0, b"", found)


def with_authority(store: bytes, pem: bytes) -> bytes | None:
    """The list with this authority, too; None when it has it, and when it is of no form that can be read."""
    (encoded,) = _PEM.findall(pem)
    authority = base64.b64decode(b"".join(encoded.split()))
    if authority in store:
        return None
    if len(store) >= _HEAD.size + _DIGEST and _HEAD.unpack_from(store)[:2] == (_MAGIC, _VERSION):
        entries = store[_HEAD.size : -_DIGEST]
        whole = _digest(store[:-_DIGEST]) == store[-_DIGEST:]  # else it has another password, and who knows it checks
        return _store(_HEAD.unpack_from(store)[2], entries, [authority]) if whole else None
    found = _plain_pkcs12(store)
    return _store(0, b"", [*found, authority]) if found else None


def _store(count: int, entries: bytes, more: Sequence[bytes]) -> bytes:
    body = _HEAD.pack(_MAGIC, _VERSION, count + len(more)) + entries + b"".join(map(_entry, more))
    return body + _digest(body)


def _entry(certificate: bytes) -> bytes:
    alias = b"hutch-" + hashlib.sha256(certificate).hexdigest().encode()
    name = struct.pack(">I", _TRUSTED) + struct.pack(">H", len(alias)) + alias
    kind = struct.pack(">Q", 0) + struct.pack(">H", len(_KIND)) + _KIND
    return name + kind + struct.pack(">I", len(certificate)) + certificate


def _digest(body: bytes) -> bytes:
    return hashlib.sha1(_PASSWORD + body, usedforsecurity=False).digest()


def _plain_pkcs12(store: bytes) -> list[bytes]:
    """The certificates in it, as far as they are not encrypted."""
    found, at = [], store.find(_CERTIFICATE)
    while at >= 0:
        try:
            begin, _ = _content(store, at + len(_CERTIFICATE), _CONTEXT)
            begin, length = _content(store, begin, _OCTETS)
        except (IndexError, ValueError):
            return []
        found.append(store[begin : begin + length])
        at = store.find(_CERTIFICATE, begin + length)
    return found


def _content(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of a DER element begins, and its length. Raises `IndexError`, `ValueError`."""
    if data[at] != tag:
        raise ValueError("another element")
    length, begin = data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(data[begin : begin + size], "big"), begin + size
    if begin + length > len(data):
        raise ValueError("it is cut off")
    return begin, length
