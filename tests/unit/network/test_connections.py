"""The ICMP message that ends a handshake."""

from __future__ import annotations

import socket
import struct

from hutch.network.connections import _unreachable


def test_it_quotes_the_packet_and_its_checksum_holds() -> None:
    message = _unreachable(("10.0.0.2", 40000), ("203.0.113.7", 443))
    total = sum(struct.unpack(f">{len(message) // 2}H", message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF
    assert message[:2] == b"\x03\x03"  # destination unreachable: port
    quoted = message[8:]
    assert quoted[0] == 0x45 and quoted[9] == socket.IPPROTO_TCP and len(quoted) == 28
    assert socket.inet_ntoa(quoted[12:16]) == "10.0.0.2" and socket.inet_ntoa(quoted[16:20]) == "203.0.113.7"
    assert struct.unpack(">HH", quoted[20:24]) == (40000, 443)
