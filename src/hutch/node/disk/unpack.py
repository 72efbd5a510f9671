"""A kept disk as a layer: a directory of files as the kernel's overlay has them, from which an image is made.

Every name, link and attribute of it is a guest's. The tree is made from nothing, from directory to directory, no link
in it is ever followed, and nothing is there that was not made here; its parent is root's only.
"""

from __future__ import annotations

import os
import stat
import time
from base64 import b64decode
from pathlib import Path

from hutch.errors import TemplateBuildFailed
from hutch.node.disk import archive
from hutch.node.disk.entries import Entry, Hostile

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = "trusted.overlay.opaque"
_ATTRIBUTES = ("user.", "security.capability")
_KEPT = ("tmp/.hutch",)
"""What no step removes: it keeps the sandbox's /tmp on its disk."""
_MOUNTED = ("proc", "sys", "dev")
"""Other file systems in a sandbox: the image has their directories, and nothing in them."""
_TOLD = "run/hutch/"
"""What the guest has told of the sandbox that the steps ran in: its environment, and which boot of it this is."""
_LONGEST = 900.0
_LOOK = 4096


def unpack(source: Path, into: Path, most: int) -> None:
    """Make the layer of a kept disk in the empty directory `into`. Blocks. `most`: bytes of all files together, holes
    too, for an image has none. Raises `TemplateBuildFailed`, `SnapshotCorrupt`, `OSError`."""
    work = _Unpacking(source, into, most)
    try:
        work.run()
    except (Hostile, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise TemplateBuildFailed(f"what the steps have written cannot be made into an image: {error}") from error
    finally:
        work.close()


class _Unpacking:
    def __init__(self, source: Path, into: Path, most: int) -> None:
        self._source = source
        self._left = most
        self._end = time.monotonic() + _LONGEST
        self._root = os.open(into, _DIRECTORY)
        self._parent = os.dup(self._root)
        self._parent_path = ""
        self._pages = -1
        self._directories: list[Entry] = []

    def close(self) -> None:
        for descriptor in (self._root, self._parent, self._pages):
            if descriptor >= 0:
                os.close(descriptor)

    def run(self) -> None:
        self._pages = os.open(self._source / archive.PAGES, os.O_RDONLY | os.O_CLOEXEC)
        for number, entry in enumerate(archive.read_index(self._source)):
            if number % _LOOK == 0 and time.monotonic() > self._end:
                raise Hostile("there are too many paths, too deep in one another")
            if not _is_ours(entry):
                self._add(entry)
        # Directories get mode and time when nothing is written into them any more.
        for entry in reversed(self._directories):
            above, _, name = entry["path"].rpartition("/")
            _own(name, self._enter(above), entry)

    def _add(self, entry: Entry) -> None:
        kind, path = entry["type"], entry["path"]
        if kind in ("hidden", "char", "block") or (kind == "gone" and path in _KEPT):
            return
        above, _, name = path.rpartition("/")
        parent = self._enter(above)
        if kind == "directory":
            self._add_directory(entry, name, parent)
        elif kind == "file":
            self._add_file(entry, name, parent)
        elif kind == "hardlink":
            self._add_link(entry["target"], name, parent)
        elif kind == "gone":
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=parent)
        else:
            if kind == "symlink":
                os.symlink(entry["target"], name, dir_fd=parent)
            else:
                os.mknod(name, stat.S_IFIFO | 0o600, dir_fd=parent)
            _own(name, parent, entry)

    def _add_directory(self, entry: Entry, name: str, parent: int) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            if entry.get("opaque"):
                os.setxattr(descriptor, _OPAQUE, b"y")
            _set_attributes(descriptor, entry)
        finally:
            os.close(descriptor)
        self._directories.append(entry)

    def _add_file(self, entry: Entry, name: str, parent: int) -> None:
        self._left -= entry["size"]
        if self._left < 0:
            raise Hostile("files are larger, together, than the disk, or than there is room for: an image has no holes")
        descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            os.truncate(descriptor, entry["size"])
            for offset, length, place in entry["data"]:
                self._copy(descriptor, offset, length, place)
            os.fchown(descriptor, entry["uid"], entry["gid"])  # another owner, later, would take its capabilities
            _set_attributes(descriptor, entry)
        finally:
            os.close(descriptor)
        _finish(name, parent, entry)

    def _copy(self, descriptor: int, offset: int, length: int, place: int) -> None:
        os.lseek(descriptor, offset, os.SEEK_SET)
        while length > 0:
            done = os.sendfile(descriptor, self._pages, place, length)
            if done == 0:
                raise Hostile("its content is not whole")
            place, length = place + done, length - done

    def _add_link(self, target: str, name: str, parent: int) -> None:
        here = os.dup(parent)
        try:
            above, _, first = target.rpartition("/")
            os.link(first, name, src_dir_fd=self._enter(above), dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(here)

    def _enter(self, path: str) -> int:
        """The directory `path`, which was made before; open until the next call."""
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


def _is_ours(entry: Entry) -> bool:
    top, _, below = entry["path"].partition("/")
    if entry["path"].startswith(_TOLD):
        return True
    return top.startswith(".hutch") or (top in _MOUNTED and (below != "" or entry["type"] != "directory"))


def _own(name: str, parent: int, entry: Entry) -> None:
    os.chown(name, entry["uid"], entry["gid"], dir_fd=parent, follow_symlinks=False)
    _finish(name, parent, entry)


def _finish(name: str, parent: int, entry: Entry) -> None:
    if entry["type"] != "symlink":
        os.chmod(name, entry["mode"], dir_fd=parent)
    os.utime(name, ns=(entry["mtime"], entry["mtime"]), dir_fd=parent, follow_symlinks=False)


def _set_attributes(descriptor: int, entry: Entry) -> None:
    """Those that mean something inside. The overlay's own are not among them: they would lead elsewhere."""
    for name, value in entry.get("xattrs", {}).items():
        if name.startswith(_ATTRIBUTES[0]) or name == _ATTRIBUTES[1]:
            os.setxattr(descriptor, name, b64decode(value))
