"""The node's tunnel as a network backend of httpcore.

A "TCP connection" to `<sandbox id>:<port>` is a connection to the tunnel's Unix socket that begins with one line
`HUTCH/1 <sandbox id> <port>`, answered by `OK` or `ERR <code> <message>`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpcore

from hutch.errors import GuestUnavailable, HutchError, NodeUnavailable, SandboxNotRunning

_MAX_LINE = 1024
_HANDSHAKE_TIMEOUT = 15.0


class TunnelBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to ports inside sandboxes. Raises our own errors, which httpcore passes on as they are."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._unix = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._unix.connect_unix_socket(self._socket, timeout=timeout)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise NodeUnavailable("the node's tunnel does not answer") from error
        try:
            await _handshake(stream, host, port)
        except BaseException:
            await stream.aclose()
            raise
        return stream


async def _handshake(stream: httpcore.AsyncNetworkStream, sandbox_id: str, port: int) -> None:
    answer = b""
    try:
        await stream.write(f"HUTCH/1 {sandbox_id} {port}\n".encode(), timeout=_HANDSHAKE_TIMEOUT)
        while not answer.endswith(b"\n"):
            # The other side sends nothing after its line until we have spoken, so this reads nothing too much.
            piece = await stream.read(_MAX_LINE, timeout=_HANDSHAKE_TIMEOUT)
            answer += piece
            if not piece or len(answer) > _MAX_LINE:
                raise NodeUnavailable("the node's tunnel hung up")
    except (httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise NodeUnavailable("the node's tunnel does not answer") from error
    if answer != b"OK\n":
        raise _refusal(answer.decode(errors="replace").strip(), sandbox_id)


def _refusal(line: str, sandbox_id: str) -> HutchError:
    _, _, rest = line.partition(" ")
    code, _, message = rest.partition(" ")
    if code == "sandbox_not_found":
        return SandboxNotRunning(f"{sandbox_id} does not run")
    return GuestUnavailable(f"{sandbox_id}: {message or code or 'no answer'}")
