"""Which addresses the server may be sent to by a caller: public ones only, unless the settings say otherwise. The name
is resolved once, checked, and the checked address is the one that is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from hutch.errors import InputFailed

_TIMEOUT = 10.0
_REFUSED_RANGES = tuple(
    ipaddress.ip_network(text)
    for text in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "198.18.0.0/15",
        "192.88.99.0/24",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
        "::/96",
    )
)
"""Beyond those that Python calls not global: carrier NAT, benchmarks, and the IPv6 ranges that lead to IPv4 ones."""


async def resolve(host: str, port: int, allow_private: bool) -> str:
    """One address of the host that may be connected to. Raises `InputFailed`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_TIMEOUT):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputFailed(f"{host} cannot be resolved") from error
    except TimeoutError as error:
        raise InputFailed(f"{host} was not resolved in {_TIMEOUT:g} s") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if allow_private or is_public(address):
            return address
    raise InputFailed(
        f"{host} is at a private address", hint="Inputs are fetched from public addresses only; send the file instead."
    )


def is_public(text: str) -> bool:
    """Whether the address belongs to the public internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in _REFUSED_RANGES if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
