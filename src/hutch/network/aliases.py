"""Addresses of a link, added and taken away in one message each to the kernel (`rtnetlink(7)`).

Here and not with pyroute2, as each thaw waits for it: opening its socket, which starts an event loop, takes 4 ms of CPU
and many switches of threads; this takes 0.1.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

_NEW_ADDRESS, _OLD_ADDRESS = 20, 21
_ACKNOWLEDGED = 0x1 | 0x4
_NOT_THERE_YET = 0x200 | 0x400
_ERROR = 2
_ADDRESS, _LOCAL = 1, 2
_WHOLE = 32
"""Bits of an address that are the network's: it is on no network."""


def add_aliases(link: str, addresses: Iterable[str]) -> None:
    """After the link's own address, which therefore stays the one that new connections come from. In the network
    namespace of the calling thread. Raises `OSError`."""
    for address in addresses:
        _change(_NEW_ADDRESS, _NOT_THERE_YET, link, address, _WHOLE)


def remove_address(link: str, address: str, prefix: int) -> None:
    """And with it the routes that stand on it. In the network namespace of the calling thread. Raises `OSError`."""
    _change(_OLD_ADDRESS, 0, link, address, prefix)


def _change(kind: int, flags: int, link: str, address: str, prefix: int) -> None:
    packed = socket.inet_aton(address)
    body = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, socket.if_nametoindex(link))
    body += b"".join(struct.pack("=HH", 4 + len(packed), each) + packed for each in (_LOCAL, _ADDRESS))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, _ACKNOWLEDGED | flags, 1, 0) + body)
        _, answer, *_, error = struct.unpack_from("=IHHIIi", netlink.recv(1 << 16))
    if answer != _ERROR or error:
        what = "added to" if kind == _NEW_ADDRESS else "taken from"
        raise OSError(-error, f"address {address} not {what} {link}: {os.strerror(-error)}")
