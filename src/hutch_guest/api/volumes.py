"""`POST /hutch/volumes?path=...&volume=...`: a connection of the server's, for the volume that is mounted there."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket

from hutch_guest.api.changes import ENVIRONMENT, PYTHON
from hutch_guest.errors import Conflict, GuestError, InvalidRequest
from hutch_guest.files.work import in_thread
from hutch_guest.guest import Guest
from hutch_guest.http.messages import Request, Response
from hutch_guest.processes import vfork
from hutch_guest.volumes import PUMP

_DETACH = 2
_MOUNT_SECONDS = 12.0
_FORBIDDEN = ("/proc", "/sys", "/dev", "/run/hutch", "/.hutch", "/.hutch-run")


class Pumped:
    """A volume that is mounted here, and the socket of the process that carries for it."""

    def __init__(self, volume: str, control: socket.socket) -> None:
        self.volume = volume
        self.control = control

    def alive(self) -> bool:
        """Whether the process is still there."""
        try:
            return self.control.recv(64, socket.MSG_DONTWAIT | socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Let it end."""
        self.control.close()


async def attach(guest: Guest, request: Request) -> Response:
    """101, and the connection is the volume's. It is mounted first, unless it is already."""
    path, volume = _path(request.query.get("path", "")), request.query.get("volume", "")
    if not volume.isascii() or not volume.isprintable() or not 0 < len(volume) <= 64:
        raise InvalidRequest("volume is no name of one", field="volume")
    async with guest.mounting:
        await _mounted(guest, path, volume)
    headers = {"Connection": "Upgrade", "Upgrade": "hutch-volume"}
    return Response(101, headers=headers, takeover=lambda transport, early: _pass_on(guest, path, transport, early))


def _path(path: str) -> str:
    if not path.startswith("/") or "\0" in path or len(path) > 1024:
        raise InvalidRequest("path is not absolute", field="path")
    clean = os.path.normpath("/" + path.lstrip("/"))
    if clean == "/" or any(clean == place or clean.startswith(place + "/") for place in _FORBIDDEN):
        raise InvalidRequest(f"nothing can be mounted at {clean}", field="path")
    return clean


async def _mounted(guest: Guest, path: str, volume: str) -> None:
    known = guest.volumes.get(path)
    if known is not None:
        if known.alive() and known.volume == volume:
            return
        known.close()
        del guest.volumes[path]
        ctypes.CDLL(None).umount2(os.fsencode(path), _DETACH)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        argv = [*PYTHON, PUMP, path]
        with theirs:
            await in_thread(vfork.start, argv[0], argv, ENVIRONMENT, (theirs.fileno(), 2, 2))
        said = await _answer(ours)
    except BaseException:
        ours.close()
        raise
    if said != b"+":
        ours.close()
        raise Conflict(f"nothing can be mounted at {path}: {said[1:].decode(errors='replace') or 'out of memory'}")
    guest.volumes[path] = Pumped(volume, ours)


async def _answer(control: socket.socket) -> bytes:
    control.setblocking(False)
    try:
        async with asyncio.timeout(_MOUNT_SECONDS):
            return await asyncio.get_running_loop().sock_recv(control, 256)
    except TimeoutError:
        raise GuestError("mounting takes too long") from None


def _pass_on(guest: Guest, path: str, transport: asyncio.Transport, early: bytes) -> None:
    """Give the connection itself to the process. (The server says nothing before it is asked.)"""
    known = guest.volumes.get(path)
    if known is not None and not early and not transport.get_write_buffer_size():
        fd = os.dup(transport.get_extra_info("socket").fileno())
        with contextlib.suppress(OSError):  # it has ended: the server sees the connection end, and asks again
            socket.send_fds(known.control, [b"+"], [fd])
        os.close(fd)
    transport.abort()
