"""The name server of the host, to which the DNS queries of sandboxes with an open network are led."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

PLACES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""Where systemd-resolved stands in for the real servers, the first names 127.0.0.53 and the second the real ones."""


def host_resolver(places: tuple[Path, ...] = PLACES, *, loopback: bool = False) -> str | None:
    """The first IPv4 name server of the host that a packet can be redirected to; None when there is none.

    A loopback address is passed over, unless one of the host's own programs is going to ask: the kernel does not route
    packets of a link to it.
    """
    for place in places:
        for line in place.read_text(errors="replace").splitlines() if place.exists() else ():
            words = line.split()
            if len(words) < 2 or words[0] != "nameserver":
                continue
            try:
                address = IPv4Address(words[1])
            except AddressValueError:
                continue
            if (loopback or not address.is_loopback) and not address.is_unspecified:
                return str(address)
    return None
