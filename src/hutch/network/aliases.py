"""More addresses for a link, in one message each to the kernel (`rtnetlink(7)`).

Here and not with pyroute2, as each thaw waits for it: opening its socket, which starts an event loop, takes 4 ms of CPU
and many switches of threads; this takes 0.1.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

_NEW_ADDRESS = 20
_FLAGS = 0x1 | 0x4 | 0x200 | 0x400
"""Asked for, to be acknowledged, new, and not there yet."""
_ERROR = 2
_ADDRESS, _LOCAL = 1, 2
_WHOLE = 32
"""Bits of an address that are the network's: it is on no network."""


def add_aliases(link: str, addresses: Iterable[str]) -> None:
    """After the link's own address, which therefore stays the one that new connections come from. In the network
    namespace of the calling thread. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        index = socket.if_nametoindex(link)
        for address in addresses:
            packed = socket.inet_aton(address)
            body = struct.pack("=BBBBI", socket.AF_INET, _WHOLE, 0, 0, index)
            body += b"".join(struct.pack("=HH", 4 + len(packed), kind) + packed for kind in (_LOCAL, _ADDRESS))
            netlink.send(struct.pack("=IHHII", 16 + len(body), _NEW_ADDRESS, _FLAGS, 1, 0) + body)
            _, kind, *_, error = struct.unpack_from("=IHHIIi", netlink.recv(1 << 16))
            if kind != _ERROR or error:
                raise OSError(-error, f"address {address} not added to {link}: {os.strerror(-error)}")
