"""TLS to a port of a sandbox on which a program speaks it by itself (`httpsPorts` of E2B's API). Who is at that port is
certain; the program's certificate is of its own making, and proves nothing."""

from __future__ import annotations

import asyncio
import ssl

HANDSHAKE_SECONDS = 10.0


class NoTls(Exception):
    """What listens there does not speak it."""


async def speak_tls(transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
    """From now on on this connection, of which nothing was read yet; it is the protocol's then. Raises `NoTls`."""
    loop = asyncio.get_running_loop()
    try:
        inside = await loop.start_tls(transport, protocol, _CONTEXT, ssl_handshake_timeout=HANDSHAKE_SECONDS)
    except BaseException as error:
        transport.abort()
        if isinstance(error, OSError | TimeoutError):  # `ssl.SSLError` is one, too
            raise NoTls(str(error)) from error
        raise
    if inside is None:
        raise NoTls("the connection was cut")
    protocol.connection_made(inside)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


_CONTEXT = _context()
