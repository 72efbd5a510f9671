"""What the firewall tells of packets: a few a second of each guest, through netlink, whatever comes in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from hutch.network.netlink import NETFILTER, attribute, attributes

_PACKET, _CONFIG = 4 << 8, (4 << 8) | 1
_COMMAND, _MODE, _TIMEOUT = 1, 2, 4
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD, _PREFIX = 9, 10
SNAP = 576
"""Bytes of a packet that are looked at: a whole question about a name, and most answers."""
_FLUSH = 10
"""Hundredths of a second after which the kernel tells what it has."""
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


@dataclass(frozen=True)
class Packet:
    """The first packet of something."""

    mark: str
    """What the rule says of it."""
    source: str
    target: str
    protocol: str
    source_port: int | None
    port: int | None
    data: bytes
    """The beginning of what a UDP packet carries."""


def group_of(node: str) -> int:
    """The number under which the kernel tells the node of this id."""
    return 1 + int.from_bytes(node.encode(), "big") % 65535


class PacketLog:
    """Calls `tell` for each packet that the kernel tells this group of."""

    def __init__(self, group: int, tell: Callable[[Packet], None]) -> None:
        self._group, self._tell = group, tell
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Begin. Raises `OSError` where the kernel does not do it."""
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        try:
            made.settimeout(2)
            made.bind((0, 0))
            self._configure(made, attribute(_COMMAND, struct.pack("B", _BIND)))
            settings = attribute(_MODE, struct.pack(">IBx", SNAP, _COPY_PACKET))
            self._configure(made, settings + attribute(_TIMEOUT, struct.pack(">I", _FLUSH)))
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        self._socket = made
        asyncio.get_running_loop().add_reader(made, self._read)

    def stop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _configure(self, made: socket.socket, attributes: bytes) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, self._group) + attributes
        made.send(struct.pack("=IHHII", 16 + len(body), _CONFIG, 0x5, 1, 0) + body)
        error = -struct.unpack_from("=i", made.recv(4096), 16)[0]
        if error:
            raise OSError(error, "the kernel's log of packets")

    def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(OSError):  # more came than fits: that is what is dropped
            data = self._socket.recv(1 << 16)
            while len(data) >= 20:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _PACKET and (packet := _parse(data[20:length])) is not None:
                    self._tell(packet)
                data = data[max(16, (length + 3) & ~3) :]


def _parse(data: bytes) -> Packet | None:
    """None for what is not IPv4."""
    found = attributes(data)
    packet = found.get(_PAYLOAD, b"")
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    head, number = (packet[0] & 15) * 4, packet[9]
    ports = number in (6, 17) and len(packet) >= head + 4
    return Packet(
        mark=found.get(_PREFIX, b"").rstrip(b"\0").decode("latin-1"),
        source=socket.inet_ntoa(packet[12:16]),
        target=socket.inet_ntoa(packet[16:20]),
        protocol=PROTOCOLS.get(number, str(number)),
        source_port=struct.unpack_from(">H", packet, head)[0] if ports else None,
        port=struct.unpack_from(">H", packet, head + 2)[0] if ports else None,
        data=packet[head + 8 :] if number == 17 else b"",
    )
