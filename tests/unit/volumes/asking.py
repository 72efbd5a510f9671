"""Requests as the kernel of a sandbox makes them."""

from __future__ import annotations

import os
import struct

from hutch.volumes.fuse import Mount
from hutch.volumes.schema import ROOT
from hutch.volumes.wire import REPLY, REQUEST, Op


def request(code: int, ino: int = ROOT, body: bytes = b"", number: int = 1) -> bytes:
    return REQUEST.pack(REQUEST.size + len(body), code, number, ino, 1000, 1000, 1, 0) + body


def ask(mount: Mount, code: int, ino: int = ROOT, body: bytes = b"", number: int = 1, again: bool = False) -> tuple:
    reply = mount.answer(request(code, ino, body, number), again)
    length, error, answered = REPLY.unpack_from(reply)
    assert (length, answered) == (len(reply), number)
    return -error, reply[REPLY.size :]


def create(name: bytes, flags: int = os.O_CREAT) -> bytes:
    return struct.pack("<IIII", flags, 0o644, 0, 0) + name + b"\0"


def write(offset: int, data: bytes, flags: int = 0) -> bytes:
    return struct.pack("<QQIIQII", 0, offset, len(data), 0, 0, flags, 0) + data


def made(mount: Mount, name: bytes = b"f") -> int:
    error, body = ask(mount, Op.CREATE, body=create(name))
    assert error == 0
    return int(struct.unpack_from("<Q", body)[0])
