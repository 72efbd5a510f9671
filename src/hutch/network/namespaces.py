"""Network namespaces and links, made with system calls and netlink: nothing is forked, a slot takes a few milliseconds.

Everything here blocks; call it from a thread other than the event loop's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from hutch.network.base import Slot

DIRECTORY = Path("/run/netns")
"""Where `ip netns` keeps them too, so that an operator finds them."""

MTU = 65520
"""Of the links: between host and guest a packet costs the guest's kernel much the same whatever its size. What leaves
the host is held to the size of its way (`firewall`)."""

CLONE_NEWNET = 0x4000_0000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SHARED = 0x10_0000
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def create(slot: Slot) -> None:
    """Make the namespace with its link, up on both sides. Raises `OSError`; then nothing is left."""
    _prepare_directory()
    host = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A thread of its own enters the new namespace, and ends there.
        _run_in_thread(lambda: _inside(slot, host))
        with IPRoute() as netlink:
            index = socket.if_nametoindex(slot.link)
            _set_sysctls(slot.link)
            netlink.addr("add", index=index, address=slot.host_address, prefixlen=slot.prefix)
            netlink.link("set", index=index, state="up")
    except BaseException as error:
        remove(slot.namespace, slot.link)
        raise OSError(f"slot {slot.namespace} cannot be made: {error}") from error
    finally:
        os.close(host)


def remove(namespace: str, link: str) -> None:
    """Remove the link and the namespace; what does not exist is no error."""
    with contextlib.suppress(OSError, NetlinkError), IPRoute() as netlink:
        netlink.link("del", index=socket.if_nametoindex(link))
    path = DIRECTORY / namespace
    while _libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
        pass  # once for every mount that stands on it
    path.unlink(missing_ok=True)


def names(prefix: str) -> list[str]:
    """Namespaces whose name starts so."""
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(prefix))
    except FileNotFoundError:
        return []


def links(prefix: str) -> list[str]:
    """Links of the host whose name starts so."""
    return sorted(entry.name for entry in Path("/sys/class/net").iterdir() if entry.name.startswith(prefix))


def used_networks() -> list[IPv4Network]:
    """What the host has addresses in or routes to, but for the default route."""
    with IPRoute() as netlink:
        routes = [(route.get("dst"), route["dst_len"]) for route in netlink.get_routes(family=2)]
    return [IPv4Network(f"{address}/{length}", strict=False) for address, length in routes if address and length]


def enable_forwarding() -> None:
    """Let the host forward IPv4. Raises `OSError` where that may not be set (in some containers)."""
    switch = Path("/proc/sys/net/ipv4/ip_forward")
    if switch.read_text().strip() != "1":
        switch.write_text("1")


def _inside(slot: Slot, host: int) -> None:
    """In a fresh thread: a new namespace, its name, and a link whose other end is in the host's."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare")
    path = DIRECTORY / slot.namespace
    path.touch(mode=0o444, exist_ok=False)
    _check(_libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", MS_BIND, None), "mount of a namespace")
    _write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
    with IPRoute() as netlink:
        peer = {"ifname": slot.link, "net_ns_fd": host, "mtu": MTU}
        netlink.link("add", kind="veth", ifname="eth0", mtu=MTU, peer=peer)
        index = socket.if_nametoindex("eth0")
        netlink.addr("add", index=index, address=slot.guest_address, prefixlen=slot.prefix)
        netlink.link("set", index=1, state="up")
        netlink.link("set", index=index, state="up")
        netlink.route("add", dst="default", gateway=slot.host_address)


def _set_sysctls(link: str) -> None:
    """Before the link is up: no IPv6 on it, and nothing that a guest could tell the host about routes."""
    for path, value in (
        (f"ipv6/conf/{link}/disable_ipv6", "1"),
        (f"ipv4/conf/{link}/rp_filter", "1"),
        (f"ipv4/conf/{link}/accept_redirects", "0"),
        (f"ipv4/conf/{link}/send_redirects", "0"),
    ):
        _write(f"/proc/sys/net/{path}", value)


def _write(path: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a host without IPv6
        Path(path).write_text(value)


def _prepare_directory() -> None:
    """As `ip netns` does it: a shared mount, so that namespaces are seen in other mount namespaces as well."""
    DIRECTORY.mkdir(exist_ok=True, mode=0o755)
    target = os.fsencode(DIRECTORY)
    if _libc.mount(b"", target, b"none", MS_SHARED | MS_REC, None) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        _check(-1, f"mount {DIRECTORY}")
    _check(_libc.mount(target, target, b"none", MS_BIND | MS_REC, None), f"mount {DIRECTORY}")
    _check(_libc.mount(b"", target, b"none", MS_SHARED | MS_REC, None), f"mount {DIRECTORY}")


def _run_in_thread(work: Callable[[], None]) -> None:
    """Run it in a thread that is then thrown away, and pass its error on."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
