"""The TCP connections of a guest, as this host's connection tracking knows them, and the end of those half open.

A handshake with a host that does not answer takes two minutes to fail, and gVisor cannot be saved for as long: its
releases up to 2024 crash on a socket that has sent a SYN and has had no answer. An ICMP message that the port is
unreachable ends it at once; the process inside is told that the connection was refused.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hutch.network.netlink import NETFILTER, attributes

_GET_CONNECTIONS = (1 << 8) | 1
_FORGET_CONNECTION = (1 << 8) | 2
_REQUEST_DUMP, _ACKNOWLEDGED = 0x301, 0x5
_NESTED = 0x8000
_ERROR, _DONE = 2, 3
_TUPLE, _PROTOCOL, _ID = 1, 4, 12
_STATE, _FLAGS = 1, (4, 5)
_CLOSES_FIRST = 4
_HANDSHAKE = {1, 2, 9}
"""SYN sent, SYN received, SYN sent by both."""
_TIME_WAIT, _CLOSED = 7, 8
_PORT_UNREACHABLE = (3, 3)


@dataclass(frozen=True)
class Connection:
    """One TCP connection."""

    id: int
    state: int
    source: tuple[str, int]
    """Who has opened it."""
    target: tuple[str, int]
    first: str | None = None
    """The address that has said goodbye first."""

    def open(self, address: str) -> bool:
        """Whether the end at this address may still have a socket of it that is not in error: also when both have said
        goodbye, if it was the first to do so."""
        return self.state != _CLOSED and not (self.state == _TIME_WAIT and self.first not in (None, address))

    @property
    def handshake(self) -> bool:
        """Whether it is just being opened."""
        return self.state in _HANDSHAKE


def connections_of(address: str) -> list[Connection]:
    """Those from and to this address. Blocks for some microseconds a connection of the host. Raises `OSError` where
    the kernel cannot list them."""
    wanted = socket.inet_aton(address)
    found = (_parse(message) for message in _dump() if wanted in message)
    return [each for each in found if each is not None and address in (each.source[0], each.target[0])]


def end_handshakes(address: str, connections: Iterable[Connection]) -> None:
    """End those of them that the guest at this address is just opening. Raises `OSError`."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for each in connections:
            if each.handshake and each.source[0] == address:
                raw.sendto(_unreachable(each.source, each.target), (address, 0))


def forget_connections(address: str) -> None:
    """Have the kernel forget all from and to an address whose guest is no more: those that were open would stay for
    days, and be taken for connections of the next guest that has it. Raises `OSError` where it cannot list them."""
    wanted = socket.inet_aton(address)
    messages = [message for message in _dump() if wanted in message]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as netlink:
        netlink.bind((0, 0))
        for message in messages:
            ends = attributes(message[20:])[_TUPLE]
            body = struct.pack("=HH", len(ends) + 4, _TUPLE | _NESTED) + ends
            head = struct.pack(
                "=IHHIIBBH", 20 + len(body), _FORGET_CONNECTION, _ACKNOWLEDGED, 1, 0, socket.AF_INET, 0, 0
            )
            netlink.send(head + body)
            netlink.recv(1 << 16)  # gone, or gone before


def _dump() -> Iterator[bytes]:
    """The kernel's messages, one a connection."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHIIBBH", 20, _GET_CONNECTIONS, _REQUEST_DUMP, 1, 0, socket.AF_INET, 0, 0))
        while True:
            data = netlink.recv(1 << 18)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", data, 16)[0] or errno.EIO
                    raise OSError(number, f"connections cannot be listed: {os.strerror(number)}")
                yield data[:length]
                data = data[(length + 3) & ~3 :]


def _parse(message: bytes) -> Connection | None:
    """None for what is not TCP."""
    told = attributes(message[20:])
    protocol = attributes(attributes(told.get(_PROTOCOL, b"")).get(1, b""))
    if _STATE not in protocol:
        return None
    ends = attributes(told[_TUPLE])
    addresses, ports = attributes(ends[1]), attributes(ends[2])
    source, target = ((socket.inet_ntoa(addresses[n]), int.from_bytes(ports[n + 1], "big")) for n in (1, 2))
    first = None
    for end, flags in zip((source, target), _FLAGS, strict=True):
        if protocol.get(flags, b"\0")[0] & _CLOSES_FIRST:
            first = end[0]
    return Connection(int.from_bytes(told.get(_ID, b""), "big"), protocol[_STATE][0], source, target, first)


def _unreachable(source: tuple[str, int], target: tuple[str, int]) -> bytes:
    """The ICMP message, with the head of the packet that it answers."""
    ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    packet = struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + ends
    packet += struct.pack(">HHI", source[1], target[1], 0)
    return struct.pack(">BBHI", *_PORT_UNREACHABLE, _checksum(_PORT_UNREACHABLE, packet), 0) + packet


def _checksum(kind: tuple[int, int], packet: bytes) -> int:
    total: int = (kind[0] << 8) + kind[1] + sum(struct.unpack(f">{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
