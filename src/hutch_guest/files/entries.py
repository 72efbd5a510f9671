"""What is told of a file."""

from __future__ import annotations

import os
import stat
import time
from typing import Any

from hutch_guest.accounts import group_name, user_name
from hutch_guest.errors import from_os_error

_GO_BITS = ((stat.S_ISUID, "u"), (stat.S_ISGID, "g"))
METADATA_PREFIX = "user.e2b."


class Entry:
    """A file, directory or link. `target_mode` is the mode of what a link leads to (None: it dangles)."""

    def __init__(self, path: str) -> None:
        try:
            self.stat = os.lstat(path)
        except (OSError, ValueError) as error:
            raise from_os_error(error if isinstance(error, OSError) else OSError(22, str(error)), path) from error
        self.path = path
        self.name = os.path.basename(path) or "/"
        self.is_link = stat.S_ISLNK(self.stat.st_mode)
        self.target: str | None = None
        self.target_mode: int | None = self.stat.st_mode
        if self.is_link:
            try:
                self.target = os.path.realpath(path, strict=True)
                self.target_mode = os.stat(path).st_mode
            except OSError:
                self.target, self.target_mode = path, None

    def to_json(self) -> dict[str, Any]:
        """Our own form."""
        return {
            "name": self.name,
            "path": self.path,
            "type": "symlink" if self.is_link else kind(self.stat.st_mode),
            "size": self.stat.st_size,
            "mode": stat.S_IMODE(self.stat.st_mode),
            "owner": user_name(self.stat.st_uid),
            "group": group_name(self.stat.st_gid),
            "modified_at": timestamp(self.stat.st_mtime_ns),
            "target": os.readlink(self.path) if self.is_link else None,
        }

    def to_envd(self) -> dict[str, Any]:
        """The EntryInfo of E2B's protocol: type and mode of a link are those of what it leads to."""
        entry: dict[str, Any] = {
            "name": self.name,
            "path": self.path,
            "size": str(self.stat.st_size),
            "mode": stat.S_IMODE(self.target_mode or 0) & 0o777,
            "permissions": permissions(self.stat.st_mode),
            "owner": user_name(self.stat.st_uid),
            "group": group_name(self.stat.st_gid),
            "modifiedTime": timestamp(self.stat.st_mtime_ns),
        }
        if self.target_mode is not None:
            names = {"file": "FILE_TYPE_FILE", "directory": "FILE_TYPE_DIRECTORY"}
            if (name := names.get(kind(self.target_mode))) is not None:
                entry["type"] = name
        if self.is_link:
            entry["symlinkTarget"] = self.target
            entry["isSymlink"] = True
        elif metadata := read_metadata(self.path):
            entry["metadata"] = metadata
        return entry


def kind(mode: int) -> str:
    """file, directory, symlink or other."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def permissions(mode: int) -> str:
    """As Go writes a mode, for example `drwxr-xr-x` or `Lrwxrwxrwx`."""
    kinds = {stat.S_IFDIR: "d", stat.S_IFLNK: "L", stat.S_IFBLK: "D", stat.S_IFCHR: "Dc", stat.S_IFIFO: "p"}
    prefix = "S" if stat.S_ISSOCK(mode) else kinds.get(stat.S_IFMT(mode), "")
    prefix += "".join(letter for bit, letter in _GO_BITS if mode & bit)
    if mode & stat.S_ISVTX:
        prefix += "t"
    return (prefix or "-") + "".join(c if mode & (256 >> i) else "-" for i, c in enumerate("rwxrwxrwx"))


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}".rstrip("0").rstrip(".") + "Z"


def read_metadata(path: str) -> dict[str, str]:
    """The labels that E2B clients put on a file (extended attributes)."""
    try:
        names = [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(METADATA_PREFIX)]
        return {name[len(METADATA_PREFIX) :]: os.getxattr(path, name).decode("utf-8", "replace") for name in names}
    except OSError:
        return {}


def write_metadata(path: str | int, metadata: dict[str, str]) -> None:
    """Replace a file's labels."""
    try:
        for name in os.listxattr(path):
            if name.startswith(METADATA_PREFIX):
                os.removexattr(path, name)
    except OSError:
        if not metadata:
            return
    for name, value in metadata.items():
        os.setxattr(path, METADATA_PREFIX + name, value.encode())
