"""Putting a packed stream back, into a sandbox that has just been booted from the same image.

The stream is a guest's own making: it is followed without leaving the tree through a link, and never into what is ours.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from typing import Any, BinaryIO

from hutch_guest.changes.stream import Broken, read_line, read_segment
from hutch_guest.changes.walk import look, ours

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}


def restore(source: BinaryIO, root: int) -> int:
    """Apply the stream; how many paths it had. Raises `Broken`, `OSError`, `ValueError`, `KeyError`."""
    work = Restore(root)
    try:
        count = 0
        while not (entry := read_line(source)).get("end"):
            if "error" in entry:
                raise Broken(str(entry["error"]))
            work.apply(entry, source)
            count += 1
        if count != entry["entries"]:
            raise Broken("entries are missing")
        work.finish()
        return count
    finally:
        work.close()


class Restore:
    """Works below the directory `root`."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._parent = os.dup(root)
        self._parent_path = ""
        self._directories: list[tuple[str, dict[str, Any]]] = []
        self._us = (os.geteuid(), os.getegid())
        os.umask(0)

    def close(self) -> None:
        """Let the directories go."""
        os.close(self._parent)

    def apply(self, entry: dict[str, Any], source: BinaryIO) -> None:
        """One path, with its content out of `source`."""
        if entry["type"] == "hidden":  # by a directory that was made anew or removed: that is an entry of its own
            return
        path, kind = entry["path"], entry["type"]
        check(path)
        above, _, name = path.rpartition("/")
        parent = self._enter(above)
        if kind == "directory":
            self._make_directory(parent, path, name, entry)
            return
        if kind == "file":
            self._make_file(_new_file(name, parent, path, entry["mode"]), entry, source)
            return
        remove(name, parent, path)
        if kind == "symlink":
            os.symlink(entry["target"], name, dir_fd=parent)
        elif kind == "hardlink":
            self._link(entry["target"], parent, name)
        elif kind in _NODES:
            os.mknod(name, _NODES[kind] | 0o600, os.makedev(*entry.get("device", (0, 0))), dir_fd=parent)
        elif kind != "gone":
            raise Broken(f"{path!r} has the unknown type {kind!r}")
        if kind not in ("hardlink", "gone"):
            own(name, parent, entry)

    def finish(self) -> None:
        """Directories get mode and time when nothing is written into them any more."""
        for path, entry in reversed(self._directories):
            above, _, name = path.rpartition("/")
            own(name, self._enter(above), entry)

    def _make_directory(self, parent: int, path: str, name: str, entry: dict[str, Any]) -> None:
        found = look(name, parent)
        if found is not None and not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=parent)
            found = None
        if found is None:
            os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            if found is not None and entry.get("opaque"):
                empty(descriptor, path)
            set_attributes(descriptor, entry)
        finally:
            os.close(descriptor)
        self._directories.append((path, entry))

    def _make_file(self, descriptor: int, entry: dict[str, Any], source: BinaryIO) -> None:
        """No call that changes nothing: there may be a hundred thousand files, and each call counts in gVisor."""
        try:
            offset = 0
            while (segment := read_segment(source)) is not None:
                offset, data = segment
                while data:
                    done = os.pwrite(descriptor, data, offset)
                    data, offset = data[done:], offset + done
            if offset != entry["size"]:
                os.ftruncate(descriptor, entry["size"])
            owner = (entry["uid"], entry["gid"])
            if owner != self._us:
                os.fchown(descriptor, *owner)
            set_attributes(descriptor, entry)
            if entry["mode"] & ~0o777:
                os.fchmod(descriptor, entry["mode"])
            os.utime(descriptor, ns=(entry["mtime"], entry["mtime"]))
        finally:
            os.close(descriptor)

    def _link(self, target: str, parent: int, name: str) -> None:
        """gVisor's overlay gives what is linked to whoever links it (and takes its set-uid bit with that), so it is
        given back."""
        check(target)
        here = os.dup(parent)
        try:
            above, _, first = target.rpartition("/")
            source = self._enter(above)
            was = os.stat(first, dir_fd=source, follow_symlinks=False)
            os.link(first, name, src_dir_fd=source, dst_dir_fd=here, follow_symlinks=False)
            if (was.st_uid, was.st_gid) != self._us:
                os.chown(name, was.st_uid, was.st_gid, dir_fd=here, follow_symlinks=False)
            if was.st_mode & 0o7000 and not stat.S_ISLNK(was.st_mode):
                os.chmod(name, stat.S_IMODE(was.st_mode), dir_fd=here)
        finally:
            os.close(here)

    def _enter(self, path: str) -> int:
        """The directory `path`; open until the next call."""
        if path == self._parent_path:
            return self._parent
        current = os.dup(self._root)
        try:
            for part in path.split("/") if path else ():
                below = os.open(part, _DIRECTORY, dir_fd=current)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        os.close(self._parent)
        self._parent, self._parent_path = current, path
        return current


def check(path: str) -> None:
    """Raise `Broken` unless it is a path below the root, and not ours."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(ours("/".join(parts[:n])) for n in (1, 2)):
        raise Broken(f"{path!r} is not to be restored")


def _new_file(name: str, parent: int, path: str, mode: int) -> int:
    try:
        return os.open(name, _NEW, mode & 0o777, dir_fd=parent)
    except FileExistsError:
        remove(name, parent, path)
        return os.open(name, _NEW, mode & 0o777, dir_fd=parent)


def own(name: str, parent: int, entry: dict[str, Any]) -> None:
    """Owner, mode and time."""
    os.chown(name, entry["uid"], entry["gid"], dir_fd=parent, follow_symlinks=False)
    if entry["type"] != "symlink":
        os.chmod(name, entry["mode"], dir_fd=parent)
    os.utime(name, ns=(entry["mtime"], entry["mtime"]), dir_fd=parent, follow_symlinks=False)


def set_attributes(descriptor: int, entry: dict[str, Any]) -> None:
    """Extended attributes."""
    for name, value in entry.get("xattrs", {}).items():
        os.setxattr(descriptor, name, b64decode(value))


def remove(name: str, parent: int, path: str) -> None:
    """Whatever is there, but what is ours; no error when there is nothing."""
    found = look(name, parent)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        kept = empty(descriptor, path)
    finally:
        os.close(descriptor)
    if not kept:
        os.rmdir(name, dir_fd=parent)


def empty(directory: int, path: str) -> bool:
    """Remove all below a directory; whether something of ours was kept."""
    kept = False
    for name in os.listdir(directory):
        below = f"{path}/{name}"
        if ours(below):
            kept = True
        else:
            remove(name, directory, below)
            kept = kept or look(name, directory) is not None
    return kept
