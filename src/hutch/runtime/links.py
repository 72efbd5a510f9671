"""The network of a slot for a kernel that was begun ahead: what `runsc` does at a start, in one call to the kernel.

The names and values are those that `runsc` sends with our flags (`boot.CreateLinksAndRoutesArgs` of release 20240729).
"""

from __future__ import annotations

import base64
import fcntl
import socket
import struct
import threading
from collections.abc import Sequence
from ipaddress import IPv4Interface
from typing import Any

from hutch.network.aliases import remove_address
from hutch.network.base import Slot
from hutch.runtime.spawn import LINK, enter_namespace, namespace_of

METHOD = "Network.CreateLinksAndRoutes"

_EVERYTHING = 3
"""All protocols (`ETH_P_ALL`)."""
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_BUFFER = 4 << 20
_SIOCGIFMTU = 0x8921
_LARGEST_SEGMENT = 65536
"""Bytes that the link takes at once and cuts up itself (`gso_max_size`)."""
_FIFO = 1

_LOOPBACK = {
    "Name": "lo",
    "Addresses": [{"Address": "127.0.0.1", "PrefixLen": 8}, {"Address": "::1", "PrefixLen": 128}],
    "Routes": [
        {"Destination": {"IP": "127.0.0.0", "Mask": base64.b64encode(bytes([255, 0, 0, 0])).decode()}, "Gateway": ""},
        {"Destination": {"IP": "::1", "Mask": base64.b64encode(b"\xff" * 16).decode()}, "Gateway": ""},
    ],
    "GVisorGRO": False,
}
_NO_ROUTE = {"Route": {"Destination": {"IP": "", "Mask": None}, "Gateway": ""}, "Name": ""}
_NO_MASK = base64.b64encode(bytes(10) + b"\xff\xff" + bytes(4)).decode()
"""Of everywhere: four bytes of IPv4 as Go keeps them, in sixteen."""


def open_link(slot: Slot) -> socket.socket:
    """Take the slot's address off its link: a socket for all that comes in there. Raises `OSError`. Blocks for some
    milliseconds."""
    done: list[socket.socket | OSError] = []

    def inside() -> None:
        try:
            enter_namespace(namespace_of(slot))
            remove_address(LINK, slot.guest_address, slot.prefix)
            done.append(_raw())
        except OSError as error:
            done.append(error)

    thread = threading.Thread(target=inside, name="link")  # of its own, as it never leaves the namespace again
    thread.start()
    thread.join()
    if isinstance(done[0], OSError):
        raise done[0]
    return done[0]


def arguments(slot: Slot, earlier: Sequence[str], link: socket.socket) -> dict[str, Any]:
    """What the kernel is to be told with it: the slot's address, and after it those that it had earlier."""
    own = IPv4Interface(f"{slot.guest_address}/{slot.prefix}")
    request = struct.pack("16si12x", LINK.encode(), 0)
    (mtu,) = struct.unpack_from("i", fcntl.ioctl(link, _SIOCGIFMTU, request), 16)
    near = {"IP": str(own.network.network_address), "Mask": base64.b64encode(own.netmask.packed).decode()}
    eth0 = {
        "Name": LINK,
        "InterfaceIndex": 0,
        "MTU": mtu,
        "Addresses": [
            {"Address": slot.guest_address, "PrefixLen": slot.prefix},
            *({"Address": address, "PrefixLen": 32} for address in earlier),
        ],
        "Routes": [{"Destination": near, "Gateway": ""}],
        "GSOMaxSize": _LARGEST_SEGMENT,
        "GVisorGSOEnabled": False,
        "GVisorGRO": False,
        "TXChecksumOffload": False,
        "RXChecksumOffload": True,
        "LinkAddress": base64.b64encode(link.getsockname()[4]).decode(),
        "QDisc": _FIFO,
        "Neighbors": None,
        "NumChannels": 1,
        "ProcessorsPerChannel": 0,
    }
    everywhere = {"Destination": {"IP": "0.0.0.0", "Mask": _NO_MASK}, "Gateway": slot.host_address}
    return {
        "LoopbackLinks": [_LOOPBACK],
        "FDBasedLinks": [eth0],
        "XDPLinks": None,
        "Defaultv4Gateway": {"Route": everywhere, "Name": LINK},
        "Defaultv6Gateway": _NO_ROUTE,
        "PCAP": False,
        "LogPackets": False,
        "NATBlob": False,
        "DisconnectOk": True,
    }


def _raw() -> socket.socket:
    """A socket for whole packets of the link, each with what is known of its checksum and segments before it."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        link.bind((LINK, _EVERYTHING))
        link.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            link.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    except BaseException:
        link.close()
        raise
    return link
