"""Connections as the kernel lists them, and the ICMP message that ends a handshake."""

from __future__ import annotations

import socket
import struct

import pytest

from hutch.network.connections import Connection, _parse, _unreachable


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


def test_a_message_of_the_kernel_is_understood() -> None:
    message = bytes(20) + _nested(
        (
            1,
            _nested(
                (1, _nested((1, b"\x0a\0\0\2"), (2, b"\xcb\0\x71\7"))),
                (2, _nested((1, b"\6"), (2, b"\x9c\x40"), (3, b"\1\xbb"))),
            ),
        ),
        (4, _nested((1, _nested((1, b"\1"))))),
        (12, b"\0\0\0\x2a"),
    )
    found = _parse(message)
    assert found == Connection(42, 1, ("10.0.0.2", 40000), ("203.0.113.7", 443))
    assert found is not None and found.open("10.0.0.2") and found.handshake
    assert not Connection(1, 8, ("10.0.0.2", 1), ("10.0.0.1", 2)).open("10.0.0.2")
    assert _parse(bytes(20) + _nested((12, b"\0\0\0\x2a"))) is None  # not TCP


@pytest.mark.parametrize(("flags", "first", "still_open"), [(4, "10.0.0.1", False), (5, "10.0.0.2", True)])
def test_after_both_goodbyes_only_who_said_it_first_may_have_a_socket(flags: int, first: str, still_open: bool) -> None:
    message = bytes(20) + _nested(
        (
            1,
            _nested(
                (1, _nested((1, b"\x0a\0\0\1"), (2, b"\x0a\0\0\2"))),
                (2, _nested((1, b"\6"), (2, b"\x9c\x40"), (3, b"\xc3\x3f"))),
            ),
        ),
        (4, _nested((1, _nested((1, b"\7"), (flags, b"\4\4"))))),
        (12, b"\0\0\0\x2a"),
    )
    found = _parse(message)
    assert found is not None and found.first == first
    assert found.open("10.0.0.2") is still_open


def _nested(*attributes: tuple[int, bytes]) -> bytes:
    """Netlink attributes, padded to four bytes."""
    packed = (struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4) for kind, value in attributes)
    return b"".join(packed)
