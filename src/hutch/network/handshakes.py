"""TCP handshakes of a guest that are under way, and how to end them from outside.

A handshake with a host that does not answer takes two minutes to fail, and gVisor cannot be saved for as long: its
releases up to 2024 crash on a socket that has sent a SYN and has had no answer. An ICMP message that the port is
unreachable ends it at once; the process inside is told that the connection was refused.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

_STATES = {1, 2, 8}
"""SYN sent, SYN received, SYN sent by both: of the kernel's connection tracking."""

_PORT_UNREACHABLE = (3, 3)


def end_handshakes(address: str) -> int:
    """End those that the guest at this address has begun and this host has let through; their number. Blocks for a
    millisecond and 0.1 ms for each connection of the host. Raises `OSError`."""
    try:
        with NFCTSocket() as conntrack:
            found = list(_handshakes(conntrack.dump(), address))
    except NetlinkError as error:
        raise OSError(error.code, f"connections cannot be listed: {error}") from error
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for remote, source, destination in found:
            raw.sendto(_unreachable(address, remote, source, destination), (address, 0))
    return len(found)


def _handshakes(entries: Any, address: str) -> Iterator[tuple[str, int, int]]:
    """Remote address, local port, remote port of each."""
    for entry in entries:
        origin, protocol = entry.get_attr("CTA_TUPLE_ORIG"), entry.get_attr("CTA_PROTOINFO")
        tcp = protocol and protocol.get_attr("CTA_PROTOINFO_TCP")
        if not origin or not tcp or tcp.get_attr("CTA_PROTOINFO_TCP_STATE") not in _STATES:
            continue
        ends, ports = origin.get_attr("CTA_TUPLE_IP"), origin.get_attr("CTA_TUPLE_PROTO")
        if ends.get_attr("CTA_IP_V4_SRC") == address:
            remote = ends.get_attr("CTA_IP_V4_DST")
            yield remote, ports.get_attr("CTA_PROTO_SRC_PORT"), ports.get_attr("CTA_PROTO_DST_PORT")


def _unreachable(address: str, remote: str, source: int, destination: int) -> bytes:
    """The ICMP message, with the head of the packet that it answers."""
    ends = socket.inet_aton(address) + socket.inet_aton(remote)
    packet = struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    packet += struct.pack(">HHI", source, destination, 0)
    return struct.pack(">BBHI", *_PORT_UNREACHABLE, _checksum(_PORT_UNREACHABLE, packet), 0) + packet


def _checksum(kind: tuple[int, int], packet: bytes) -> int:
    total: int = (kind[0] << 8) + kind[1] + sum(struct.unpack(f">{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
