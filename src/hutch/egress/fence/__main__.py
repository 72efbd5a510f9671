"""`python -m hutch.egress.fence`: started by the node, with sockets that it has opened, and told all the rest over one
of them. It gives up every privilege before it reads a byte from anybody, and ends when the node does."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import resource
import signal
import socket

import uvloop

from hutch.descriptors import raise_limit
from hutch.egress.fence.connection import Connection
from hutch.egress.fence.control import MAX_LINE, Control
from hutch.egress.fence.dns import Datagrams, Stream
from hutch.egress.fence.guarded import Wall
from hutch.egress.fence.upstream import Upstream

_SWEEP_SECONDS = 2.0
_MEMORY = 1 << 30
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def main() -> None:
    """Serve until the node ends."""
    parser = argparse.ArgumentParser(prog="hutch.egress.fence")
    for name in ("control", "tcp", "dns-udp", "dns-tcp"):
        parser.add_argument(f"--{name}", type=int, required=True, help="A file descriptor.")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--resolver", help="address:port")
    parser.add_argument("--floor", type=float, required=True)
    options = parser.parse_args()
    raise_limit()
    _give_up_privileges(options.uid)
    uvloop.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(sock=_socket(options.control), limit=MAX_LINE)
    control = Control(reader, writer)
    address, _, port = (options.resolver or "").rpartition(":")
    wall = Wall(control, Upstream((address, int(port)) if address else None), options.floor)
    serving = asyncio.ensure_future(control.serve(wall))
    await control.told()  # what has come meanwhile waits in the sockets
    await loop.create_datagram_endpoint(lambda: Datagrams(wall), sock=_socket(options.dns_udp))
    await loop.create_server(lambda: Stream(wall), sock=_socket(options.dns_tcp))
    await loop.create_server(lambda: Connection(wall), sock=_socket(options.tcp), backlog=512)
    sweeping = asyncio.ensure_future(_sweep(wall))
    await serving
    sweeping.cancel()


async def _sweep(wall: Wall) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        wall.sweep(asyncio.get_running_loop().time())


def _socket(descriptor: int) -> socket.socket:
    made = socket.socket(fileno=descriptor)
    made.setblocking(False)
    return made


def _give_up_privileges(uid: int) -> None:
    """No user that owns anything, no groups, no way back; and no memory without end."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    os.chdir("/")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        raise SystemExit("the node has ended")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_NPROC, (8, 8))  # threads; none is needed
    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C is the node's
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
