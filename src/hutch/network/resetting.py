"""The hard end of a connection whose other end is a guest.

A connection that is closed in peace stays in the host's connection tracking for two minutes, and as long a freeze of
the sandbox has to take it for one that may be open inside. A reset is gone at once, on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from typing import Any, cast

_AT_ONCE = struct.pack("ii", 1, 0)
_TO_NOBODY = bytes(16)
"""A `sockaddr` of the family AF_UNSPEC."""
_libc = ctypes.CDLL(None)


def reset(transport: asyncio.BaseTransport) -> None:
    """End a TCP connection at once: what is unsent is dropped, and the other end gets a RST."""
    if (found := transport.get_extra_info("socket")) is not None:
        with contextlib.suppress(OSError):  # it is closed already
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    cast(asyncio.Transport, transport).abort()  # uvloop's is one in all but its class


def reset_socket(connection: socket.socket) -> None:
    """End a TCP connection at once, whoever else has a descriptor of it: closing this one would not. Both ends get a
    RST; what has come and was not read is gone."""
    # connect(2): to AF_UNSPEC dissolves the association. Python's `connect` does not take such an address.
    if _libc.connect(connection.fileno(), _TO_NOBODY, len(_TO_NOBODY)):
        with contextlib.suppress(OSError):  # it is over already
            connection.shutdown(socket.SHUT_RDWR)


def resetting_socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket for aiohttp's connector that is reset when it is closed: for a client that asks one question and
    closes when it has the whole answer."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    return made
