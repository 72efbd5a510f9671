"""What is said of one path."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from hashlib import blake2b
from typing import Any

from hutch_guest.changes.stream import BLOCK

MOST_DIGESTED = 64 << 20
"""Larger files have no digest: theirs are compared by size and time."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}


def type_of(found: os.stat_result) -> str:
    """The word for its type."""
    return _TYPES.get(stat.S_IFMT(found.st_mode), "unknown")


def describe(found: os.stat_result, name: str, directory: int) -> dict[str, Any]:
    """Type, owner, mode and the like."""
    kind = type_of(found)
    entry: dict[str, Any] = {
        "type": kind,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime": found.st_mtime_ns,
    }
    if kind == "file":
        entry["size"] = found.st_size
    elif kind == "symlink":
        entry["target"] = os.readlink(name, dir_fd=directory)
    elif kind in ("char", "block"):
        entry["device"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    return entry


def open_file(name: str, directory: int) -> int:
    """A file to read, or a directory for its attributes. Raises `OSError`."""
    return os.open(name, _OPEN, dir_fd=directory)


def attributes(descriptor: int) -> dict[str, str]:
    """Extended attributes, without the overlay's own; values in base64."""
    found = {}
    for name in sorted(os.listxattr(descriptor)):
        if name.startswith(("user.", "trusted.", "security.")) and not name.startswith("trusted.overlay."):
            found[name] = b64encode(os.getxattr(descriptor, name)).decode()
    return found


def digest(name: str, directory: int) -> str:
    """Of a file's content. Raises `OSError`."""
    descriptor = open_file(name, directory)
    try:
        sum = blake2b(digest_size=20)
        while block := os.read(descriptor, BLOCK):
            sum.update(block)
        return sum.hexdigest()
    finally:
        os.close(descriptor)
