"""Watching a directory for changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from typing import Any

from hutch_guest.errors import FileMissing, GuestError, InvalidPath, LimitReached, from_os_error
from hutch_guest.files import inotify
from hutch_guest.files.entries import Entry
from hutch_guest.files.inotify import Inotify
from hutch_guest.files.upload import PART

MAX_EVENTS = 10_000
MAX_WATCHERS = 128
_MAX_DIRECTORIES = 65_536
_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs"})
_TYPES = (
    (inotify.CREATE | inotify.MOVED_TO, "EVENT_TYPE_CREATE"),
    (inotify.MODIFY, "EVENT_TYPE_WRITE"),
    (inotify.DELETE, "EVENT_TYPE_REMOVE"),
    (inotify.MOVED_FROM, "EVENT_TYPE_RENAME"),
    (inotify.ATTRIB, "EVENT_TYPE_CHMOD"),
)
_WITH_ENTRY = frozenset({"EVENT_TYPE_CREATE", "EVENT_TYPE_WRITE", "EVENT_TYPE_CHMOD"})


class DirectoryWatch:
    """Collects what happens in a directory. Of what nobody fetches only the newest events are kept."""

    def __init__(self, path: str, recursive: bool, entries: bool, network: bool) -> None:
        check_directory(path, network)
        self._root = path
        self._recursive = recursive
        self._entries = entries
        self._names: dict[int, str] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_EVENTS)
        self._waiter: asyncio.Future[None] | None = None
        self._arriving = False
        """An upload has just left its temporary name; the name that comes next is its own."""
        self._loop = asyncio.get_running_loop()
        try:
            self._inotify = Inotify()
        except OSError as error:
            raise LimitReached(f"cannot watch '{path}': {(error.strerror or '').lower()}") from error
        self._open = True
        try:
            self._add("")
        except BaseException:
            self._inotify.close()
            raise
        self._loop.add_reader(self._inotify.fd, self._readable)

    def __enter__(self) -> DirectoryWatch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._inotify.fd)
            self._inotify.close()

    def _add(self, name: str) -> None:
        """Watch a directory (relative to the root), and those in it when recursive."""
        stack = [name]
        while stack:
            current = stack.pop()
            path = os.path.join(self._root, current) if current else self._root
            try:
                self._names[self._inotify.add(path)] = current
                if self._recursive:
                    with os.scandir(path) as found:
                        children = [one.name for one in found if one.is_dir(follow_symlinks=False)]
                    stack += [os.path.join(current, child) for child in children]
            except OSError as error:
                if current == "":
                    raise from_os_error(error, path) from error
            if len(self._names) > _MAX_DIRECTORIES:
                raise LimitReached(f"more than {_MAX_DIRECTORIES} directories to watch")

    def _readable(self) -> None:
        for number, mask, name in self._inotify.read():
            if mask & inotify.IGNORED:
                self._names.pop(number, None)
            directory = self._names.get(number)
            if directory is None or not name:
                continue
            if PART.fullmatch(name):  # an upload, which nobody is to see before it is whole
                self._arriving = bool(mask & inotify.MOVED_FROM)
                continue
            self._take(os.path.join(directory, name), mask)
            if self._arriving and mask & inotify.MOVED_TO:
                self._take(os.path.join(directory, name), inotify.MODIFY)
            self._arriving = False
        if self._events and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self, name: str, mask: int) -> None:
        kind = next((kind for bits, kind in _TYPES if mask & bits), None)
        if kind is None:
            return
        event: dict[str, Any] = {"name": name, "type": kind}
        if self._entries and kind in _WITH_ENTRY:
            with contextlib.suppress(GuestError):  # gone already
                event["entry"] = Entry(os.path.join(self._root, name)).to_envd()
        self._events.append(event)
        if self._recursive and kind == "EVENT_TYPE_CREATE" and mask & inotify.ISDIR:
            try:
                self._add(name)
            except GuestError:
                return  # too many: what is watched stays watched

    def drain(self) -> list[dict[str, Any]]:
        """The events since the last time."""
        events = list(self._events)
        self._events.clear()
        return events

    async def next(self, timeout: float) -> list[dict[str, Any]]:
        """Wait for events; none after `timeout` seconds of silence."""
        if not self._events:
            self._waiter = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._waiter
            except TimeoutError:
                return []
            finally:
                self._waiter = None
        return self.drain()


def check_directory(path: str, network: bool) -> None:
    """Refuse what is no directory, and network file systems: they do not tell what others do on them."""
    if not os.path.lexists(path):
        raise FileMissing(f"path '{path}' does not exist")
    if not os.path.isdir(path):
        raise InvalidPath(f"path is not a directory: {path}")
    if not network and is_network(file_system(os.path.realpath(path))):
        raise InvalidPath(f"path '{path}' is on a network file system, which cannot be watched")


def is_network(kind: str) -> bool:
    """Whether a file system type is a network one."""
    return kind in _NETWORK or kind == "fuse" or kind.startswith("fuse.")


def file_system(path: str) -> str:
    """The type of the file system that a path is on."""
    best, kind = "", ""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = fields[1].replace("\\040", " ").rstrip("/")
            if len(point) >= len(best) and (path == point or path.startswith(point + "/")):
                best, kind = point, fields[2]
    return kind


class Watchers:
    """Watches that outlive a request, by id."""

    def __init__(self) -> None:
        self._watches: dict[str, DirectoryWatch] = {}

    def add(self, watch: DirectoryWatch) -> str:
        """Keep a watch; answers its id. The oldest goes when there are too many."""
        if len(self._watches) >= MAX_WATCHERS:
            self.remove(next(iter(self._watches)))
        id = "w" + os.urandom(8).hex()
        self._watches[id] = watch
        return id

    def get(self, id: str) -> DirectoryWatch | None:
        """The watch of this id."""
        return self._watches.get(id)

    def remove(self, id: str) -> bool:
        """End a watch; False when there is none."""
        watch = self._watches.pop(id, None)
        if watch is not None:
            watch.close()
        return watch is not None
