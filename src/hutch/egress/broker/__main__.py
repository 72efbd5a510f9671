"""`python -m hutch.egress.broker`: started by the node, with a socket on which it listens, and told all the rest over
another. It gives up every privilege before it reads a byte from anybody, and ends when the node does."""

from __future__ import annotations

import argparse
import asyncio
import socket
import ssl

import uvloop

from hutch.descriptors import raise_limit
from hutch.egress.broker.control import Control
from hutch.egress.broker.entrance import Entrance
from hutch.egress.broker.grants import MEMORY, Grants
from hutch.egress.child import MAX_LINE
from hutch.egress.unprivileged import give_up_privileges


def main() -> None:
    """Serve until the node ends."""
    parser = argparse.ArgumentParser(prog="hutch.egress.broker")
    for name in ("control", "fence"):
        parser.add_argument(f"--{name}", type=int, required=True, help="A file descriptor.")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--fence-uid", type=int, required=True, help="The user whose connections are taken.")
    options = parser.parse_args()
    raise_limit()
    trusted = ssl.create_default_context()  # while we may read what the host's administrator has made private
    trusted.set_alpn_protocols(["http/1.1"])
    give_up_privileges(options.uid, MEMORY)
    uvloop.run(_serve(options, trusted))


async def _serve(options: argparse.Namespace, trusted: ssl.SSLContext) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_unix_connection(sock=_socket(options.control), limit=MAX_LINE)
    grants = Grants()
    control = Control(reader, writer, grants)
    serving = asyncio.ensure_future(control.serve())
    await control.told()  # what has come meanwhile waits in the socket
    await loop.create_unix_server(
        lambda: Entrance(grants, trusted, control, options.fence_uid), sock=_socket(options.fence), backlog=512
    )
    await serving


def _socket(descriptor: int) -> socket.socket:
    made = socket.socket(fileno=descriptor)
    made.setblocking(False)
    return made


if __name__ == "__main__":
    main()
