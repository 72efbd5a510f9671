"""Messages as gVisor's kernel writes them, for tests."""

from __future__ import annotations

import socket
import struct
import time

CLONE, EXECVE, EXIT, CONNECT = 2, 3, 4, 10


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def context(pid: int, *, uid: int = 0, cwd: str = "/", name: str = "comm", at: float | None = None) -> bytes:
    inner = field(1, int((at or time.time()) * 1e9)) + field(4, pid)
    return field(1, inner + field(7, field(1, 0) + field(2, uid)) + field(8, cwd) + field(9, name))


def message(kind: int, body: bytes, dropped: int = 0) -> bytes:
    return struct.pack("<HHI", 8, kind, dropped) + body


def clone(pid: int, child: int, dropped: int = 0) -> bytes:
    return message(CLONE, context(pid) + field(3, child) + field(4, child), dropped)


def execve(pid: int, path: str, *argv: str, env: str = "", uid: int = 0, cwd: str = "/", dropped: int = 0) -> bytes:
    words = b"".join(field(3, word) for word in argv)
    body = context(pid, uid=uid, cwd=cwd) + field(2, path) + words + (field(4, env) if env else b"")
    return message(EXECVE, body, dropped)


def exited(pid: int) -> bytes:
    return message(EXIT, context(pid))


def connect(pid: int, address: str, port: int, name: str = "comm") -> bytes:
    if ":" in address:
        place = struct.pack("<H", socket.AF_INET6) + struct.pack(">HI", port, 0)
        place += socket.inet_pton(socket.AF_INET6, address) + bytes(4)
    else:
        place = struct.pack("<H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(address) + bytes(8)
    return message(CONNECT, context(pid, name=name) + field(3, 42) + field(4, 7) + field(6, place))
