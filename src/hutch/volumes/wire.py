"""The FUSE protocol (include/uapi/linux/fuse.h, 7.31), as far as gVisor's kernel speaks it: its layouts and numbers."""

from __future__ import annotations

import struct
from enum import IntEnum

from hutch.volumes.tree import Attributes

REQUEST = struct.Struct("<IIQQIIII")
"""Length of the whole, opcode, its number, inode, uid, gid, pid, padding."""
REPLY = struct.Struct("<IiQ")
"""Length of the whole, 0 or an error number less than 0, the request's number."""
MAX_DATA = 1 << 20
"""Bytes of one read, and more than one write has."""
MAX_REQUEST = MAX_DATA + 4096

SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
READ = struct.Struct("<QQI")
WRITE = struct.Struct("<QQIIQII")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_TIMES = struct.Struct("<QQII")
_OPENED = struct.Struct("<QII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_DIRENT = struct.Struct("<QQII")
_BLOCK = 4096
_GOOD_FOR = 100_000_000
"""Nanoseconds for which a kernel need not ask for attributes again. Of three requests that saves one; what another
sandbox changes is seen that much later. A read that reaches the end of a file asks all the same (gVisor)."""
_BILLION = 10**9


class Op(IntEnum):
    """The requests that are answered with more than ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45


SILENT = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT, Op.DESTROY})
"""Never answered."""
ONCE = frozenset({Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.RENAME2, Op.CREATE, Op.WRITE})
"""What must not be done twice when it is asked again because its answer was lost."""


class Set(IntEnum):
    """Which fields a SETATTR sets, as bits."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


def attributes(found: Attributes) -> bytes:
    """`fuse_attr`."""
    times = [divmod(at, _BILLION) for at in (found.atime, found.mtime, found.ctime)]
    return _ATTR.pack(
        found.ino,
        found.size,
        (found.size + 511) // 512,
        *(seconds for seconds, _ in times),
        *(nanoseconds for _, nanoseconds in times),
        found.mode,
        2 if found.is_dir else 1,
        found.uid,
        found.gid,
        0,
        _BLOCK,
        0,
    )


def attributes_reply(found: Attributes) -> bytes:
    """`fuse_attr_out`."""
    return struct.pack("<QI4x", 0, _GOOD_FOR) + attributes(found)


def entry_reply(found: Attributes) -> bytes:
    """`fuse_entry_out`. The name itself is asked for again each time."""
    return struct.pack("<Q28xI", found.ino, _GOOD_FOR) + attributes(found)


def opened_reply() -> bytes:
    """`fuse_open_out`: files are known by their inodes, not by handles."""
    return _OPENED.pack(0, 0, 0)


def statfs_reply(limit: int, left: int) -> bytes:
    """`fuse_kstatfs`."""
    files = limit // _BLOCK
    return _STATFS.pack(limit // _BLOCK, left // _BLOCK, left // _BLOCK, files, left // _BLOCK, _BLOCK, 255, _BLOCK, 0)


def directory_entry(ino: int, cookie: int, name: bytes, mode: int) -> bytes:
    """`fuse_dirent`; `cookie` is where to read on behind it."""
    entry = _DIRENT.pack(ino, cookie, len(name), mode >> 12) + name
    return entry + b"\0" * (-len(entry) % 8)
