"""`pump.py PATH`: mounts a volume at PATH and carries its requests.

Standard input is a socket to PID 1: the first message back is `+`, or `-` and why it failed; each message that comes
then brings a connection to the server, in the place of the one before. On it the requests go out as the kernel gave
them and the answers come in as the kernel takes them: both begin with their length. The first four bytes out say how
many requests follow that were sent before, on a connection that is gone, and whose answers may be lost.

Writes are answered at once and sent on, some MiB ahead; what becomes of them is told when the file is flushed, as it is
at each close, or synced. That is quick, and it keeps programs out of waits: gVisor fails a write that a signal or a
freeze finds waiting.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
import threading
import time

_HEADER = struct.Struct("<IIQQ")
"""Length, opcode, number, inode."""
_ARGUMENTS = 40
"""Where a request goes on behind its header."""
_REPLY = struct.Struct("<IiQ")
"""Length, error, number."""
_WRITE, _RELEASE, _FSYNC, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR = 16, 18, 20, 25, 26, 27, 29
_SILENT = frozenset({2, 36, 38, 42})
"""What nobody answers: forget, interrupt, destroy."""
_AHEAD, _MOST_AHEAD = 8 << 20, 256
"""Bytes of writes that wait for the server's answer, and their number: the server remembers what it has answered of
the last 1024 requests, to do none twice."""
_MAX_WRITE = 256 << 10
_BUFFER = (1 << 20) + 4096
_PATIENCE = 10.0
"""Seconds without a connection after which what waits gets EIO, and what comes, at once."""
_OPTIONS = "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"


class Pump:
    """The threads of one mount share this."""

    def __init__(self, fuse: int) -> None:
        self._fuse = fuse
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        """Held by who sends; never asked for by who has the other one."""
        self._link: socket.socket | None = None
        self._waiting: dict[int, bytes] = {}
        """Requests without an answer, by their numbers, in their order."""
        self._room = threading.Condition(self._lock)
        self._ahead: dict[int, tuple[int, int]] = {}
        """Writes among them, which were answered: inode and size."""
        self._failed: dict[int, int] = {}
        """Errors of such writes that nobody was told of, by inode."""
        self._lost_at = time.monotonic()

    def carry_out(self) -> None:
        """From the kernel to the server, for ever."""
        while True:
            try:
                request = os.read(self._fuse, _BUFFER)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue  # the request was taken back
                os._exit(0)  # it is not mounted any more
            _, code, number, inode = _HEADER.unpack_from(request)
            if code == _INIT:
                self._reply(number, 0, _greeting(request))
            elif code == _WRITE:
                self._write_ahead(number, inode, request)
            elif code == _OPENDIR:
                self._reply(number, 0, b"\0" * 16)
            elif code == _RELEASEDIR or (code == _FLUSH and self._settled(inode)):
                self._reply(number, 0)
            elif code == _RELEASE:
                self._reply(number, 0)
                self._send(number, request)
            elif code not in _SILENT and not self._send(number, request):
                self._reply(number, errno.EIO)

    def _write_ahead(self, number: int, inode: int, request: bytes) -> None:
        (size,) = struct.unpack_from("<I", request, _ARGUMENTS + 16)
        with self._lock:
            while len(self._ahead) >= _MOST_AHEAD or sum(ahead for _, ahead in self._ahead.values()) + size > _AHEAD:
                self._room.wait()
            self._ahead[number] = inode, size
        if self._send(number, request):
            self._reply(number, 0, struct.pack("<I4x", size))
        else:
            self._settle(number, 0)
            self._reply(number, errno.EIO)

    def _settled(self, inode: int) -> bool:
        """Nothing that was written to it waits, or has failed."""
        with self._lock:
            return inode not in self._failed and all(inode != of for of, _ in self._ahead.values())

    def _settle(self, number: int, error: int) -> bool:
        """The end of a write that was answered before; False when it is none."""
        with self._lock:
            ahead = self._ahead.pop(number, None)
            if ahead is not None and error:
                self._failed[ahead[0]] = error
            self._room.notify()
        return ahead is not None

    def _send(self, number: int, request: bytes) -> bool:
        """False when there has been nobody to send it to for too long."""
        with self._sending:
            with self._lock:
                link = self._link
                if link is None and time.monotonic() - self._lost_at > _PATIENCE:
                    return False
                self._waiting[number] = request
            if link is not None:
                self._put(link, request)
        return True

    def _put(self, link: socket.socket, data: bytes) -> None:
        try:
            link.sendall(data)
        except OSError:
            self._lose(link)

    def join(self, link: socket.socket) -> None:
        """Use this connection from now on."""
        link.setblocking(True)
        if self._link is not None:
            self._lose(self._link)  # also wakes who is sending on it
        with self._sending:
            with self._lock:
                self._link = link
                again = list(self._waiting.values())
            threading.Thread(target=self._carry_in, args=(link,), daemon=True).start()
            self._put(link, struct.pack("<I", len(again)))
            for request in again:
                self._put(link, request)

    def _carry_in(self, link: socket.socket) -> None:
        """From the server to the kernel, until the connection ends."""
        try:
            with link.makefile("rb", buffering=_BUFFER) as source:
                while len(head := source.read(_REPLY.size)) == _REPLY.size:
                    length, error, number = _REPLY.unpack(head)
                    if not _REPLY.size <= length <= _BUFFER:
                        break
                    body = source.read(length - _REPLY.size)
                    with self._lock:
                        if self._link is not link or (request := self._waiting.pop(number, None)) is None:
                            continue  # an answer that nobody waits for
                    self._answered(request, -error, head + body)
        except OSError:
            pass
        self._lose(link)

    def _answered(self, request: bytes, error: int, reply: bytes) -> None:
        _, code, number, inode = _HEADER.unpack_from(request)
        if code == _RELEASE or self._settle(number, error):
            return
        if code in (_FLUSH, _FSYNC):
            with self._lock:
                failed = self._failed.pop(inode, 0)
            if failed:
                return self._reply(number, failed)
        self._write(reply)

    def _lose(self, link: socket.socket) -> None:
        with self._lock:
            if self._link is link:
                self._link, self._lost_at = None, time.monotonic()
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    def give_up(self) -> None:
        """For ever: let nobody wait for a server that is gone."""
        while True:
            time.sleep(1.0)
            with self._lock:
                if self._link is not None or time.monotonic() - self._lost_at <= _PATIENCE:
                    continue
                waiting, self._waiting = self._waiting, {}
            for number, request in waiting.items():
                self._answered(request, errno.EIO, _REPLY.pack(_REPLY.size, -errno.EIO, number))

    def _reply(self, number: int, error: int, body: bytes = b"") -> None:
        self._write(_REPLY.pack(_REPLY.size + len(body), -error, number) + body)

    def _write(self, reply: bytes) -> None:
        with contextlib.suppress(OSError):  # who asked has gone meanwhile
            os.write(self._fuse, reply)


def _greeting(request: bytes) -> bytes:
    """`fuse_init_out`: version 7.31, and how much is written at once."""
    readahead = struct.unpack_from("<8xI", request, _ARGUMENTS)[0]
    big_writes, most_pages = 1 << 5, 1 << 22
    pages = _MAX_WRITE >> 12
    return struct.pack("<IIIIHHIIHH28x", 7, 31, readahead, big_writes | most_pages, 12, 10, _MAX_WRITE, 1, pages, 0)


def mount(path: str) -> int:
    """The kernel's side of it. Raises `OSError`."""
    os.makedirs(path, exist_ok=True)
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    libc = ctypes.CDLL(None, use_errno=True)
    options = _OPTIONS.format(fuse).encode()
    if libc.mount(b"volume", os.fsencode(path), b"fuse", ctypes.c_ulong(0), options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fuse


def main(path: str) -> None:
    """The program."""
    guest = socket.socket(fileno=0)
    try:
        pump = Pump(mount(path))
    except OSError as error:
        guest.send(b"-" + (error.strerror or "it cannot be mounted").encode())
        return
    for work in (pump.carry_out, pump.give_up):
        threading.Thread(target=work, daemon=True).start()
    guest.send(b"+")
    while True:
        message, fds, _, _ = socket.recv_fds(guest, 1, 1)
        if not message:
            return
        for fd in fds:
            pump.join(socket.socket(fileno=fd))


if __name__ == "__main__":
    main(sys.argv[1])
