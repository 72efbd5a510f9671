"""Packing files into a tar stream."""

from __future__ import annotations

import os
import stat
import tarfile

from hutch_guest.accounts import group_name, user_name
from hutch_guest.errors import PayloadTooLarge
from hutch_guest.files.globs import find
from hutch_guest.files.work import BLOCK, StreamWriter

_RECORD = 512


def select(base: str, patterns: list[str], max_bytes: int | None) -> list[str]:
    """What will be packed. Raises `PayloadTooLarge` before anything is sent, with the size there would be."""
    found = []
    size = 0
    for path in find(base, patterns):
        try:
            one = os.lstat(os.path.join(base, path))
        except OSError:
            continue
        if stat.S_ISREG(one.st_mode) or stat.S_ISLNK(one.st_mode):
            found.append(path)
            size += one.st_size
    if max_bytes is not None and size > max_bytes:
        raise PayloadTooLarge(f"the files are {size} bytes, more than {max_bytes}", size=size, limit=max_bytes)
    return found


def pack(out: StreamWriter, base: str, paths: list[str]) -> None:
    """Write the tar stream. Files that have gone or cannot be read by now are left out."""
    for path in paths:
        full = os.path.join(base, path)
        try:
            found = os.lstat(full)
            if stat.S_ISLNK(found.st_mode):
                out.write(_head(path, found, os.readlink(full)))
            elif stat.S_ISREG(found.st_mode):
                _pack_file(out, path, full)
        except OSError:
            continue
    out.write(b"\0" * (2 * _RECORD))


def _pack_file(out: StreamWriter, path: str, full: str) -> None:
    fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return
        first = os.read(fd, BLOCK)  # an unreadable file fails here, before its head is out
        out.write(_head(path, found))
        left = found.st_size
        block = first
        while left and block:
            block = block[:left]
            out.write(block)
            left -= len(block)
            block = os.read(fd, BLOCK) if left else b""
        _fill(out, left)  # it became shorter meanwhile: the head has promised its size
        _fill(out, -found.st_size % _RECORD)
    finally:
        os.close(fd)


def _fill(out: StreamWriter, count: int) -> None:
    while count > 0:
        part = min(count, BLOCK)
        out.write(bytes(part))
        count -= part


def _head(path: str, found: os.stat_result, link: str | None = None) -> bytes:
    member = tarfile.TarInfo(path)
    member.mode = stat.S_IMODE(found.st_mode)
    member.mtime = int(found.st_mtime)
    member.uid, member.gid = found.st_uid, found.st_gid
    member.uname, member.gname = user_name(found.st_uid), group_name(found.st_gid)
    if link is not None:
        member.type, member.linkname = tarfile.SYMTYPE, link
    else:
        member.size = found.st_size
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
