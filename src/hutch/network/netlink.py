"""What the kernel's netlink sockets of netfilter speak, as far as it is needed here."""

from __future__ import annotations

import struct

NETFILTER = 12
"""The protocol of the socket."""


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by their number."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(4, (length + 3) & ~3) :]
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One of them."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
