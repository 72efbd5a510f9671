"""`python -m hutch.egress.fence`: started by the node, with sockets that it has opened, and told all the rest over one
of them. It gives up every privilege before it reads a byte from anybody, and ends when the node does."""

from __future__ import annotations

import argparse
import asyncio
import socket

import uvloop

from hutch.descriptors import raise_limit
from hutch.egress.child import MAX_LINE
from hutch.egress.fence.connection import Connection
from hutch.egress.fence.control import Control
from hutch.egress.fence.dns import Datagrams, Stream
from hutch.egress.fence.guarded import MEMORY, Wall
from hutch.egress.unprivileged import give_up_privileges

_SWEEP_SECONDS = 2.0


def main() -> None:
    """Serve until the node ends."""
    parser = argparse.ArgumentParser(prog="hutch.egress.fence")
    for name in ("control", "tcp", "dns-udp", "dns-tcp"):
        parser.add_argument(f"--{name}", type=int, required=True, help="A file descriptor.")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--resolver", help="address:port")
    parser.add_argument("--floor", type=float, required=True)
    parser.add_argument("--broker", required=True, help="Name of its socket.")
    options = parser.parse_args()
    options.descriptors = raise_limit()
    give_up_privileges(options.uid, MEMORY)
    uvloop.run(_serve(options))


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(sock=_socket(options.control), limit=MAX_LINE)
    control = Control(reader, writer)
    address, _, port = (options.resolver or "").rpartition(":")
    resolver = (address, int(port)) if address else None
    wall = control.wall = Wall(control, resolver, options.floor, options.broker, options.descriptors)
    serving = asyncio.ensure_future(control.serve())
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


if __name__ == "__main__":
    main()
