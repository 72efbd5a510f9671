"""All that differs from the image, as the overlay's written layer has it: parents before their children, names sorted.

Whiteouts (a character device 0:0) stand for what was removed, an attribute for a directory of which nothing below is
the image's any more. Everything is looked up from directory to directory without following links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

OPAQUE = "trusted.overlay.opaque"
MOST_DEPTH = 4000
"""Directories open at once, in each of the two layers."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = frozenset({"proc", "sys", "dev", "etc/hostname", "etc/hosts", "run/hutch"})
"""Other file systems, and what the guest writes anew in every sandbox."""


class TooDeep(Exception):
    """Directories in directories, beyond what can be held open."""


class Change:
    """One path. The descriptors are of the directories it is in, and open until the walk goes on."""

    __slots__ = ("image", "name", "now", "opaque", "path", "was", "written")

    def __init__(
        self,
        path: str,
        level: Level,
        name: str,
        now: os.stat_result | None,
        was: os.stat_result | None,
        opaque: bool,
    ) -> None:
        self.path = path
        self.name = name
        self.written = level.written
        self.image = level.image
        """-1 where the image has no such directory."""
        self.now = now
        """None: removed."""
        self.was = was
        """What the image has there, if it has anything."""
        self.opaque = opaque
        """A directory that hides all that the image has below it."""


class Level:
    """A directory on the way down."""

    __slots__ = ("image", "names", "path", "written")

    def __init__(self, path: str, written: int, image: int) -> None:
        self.path = path
        self.written = written
        self.image = image
        self.names = iter(sorted(os.listdir(written)))

    def was(self, name: str) -> os.stat_result | None:
        """What the image has of this name."""
        return look(name, self.image) if self.image >= 0 else None

    def close(self) -> None:
        """Let the directories go."""
        os.close(self.written)
        if self.image >= 0:
            os.close(self.image)


def ours(path: str) -> bool:
    """Whether a path is none of the sandbox's own files."""
    return path in _OURS or path.startswith(".hutch")


def look(name: str, directory: int) -> os.stat_result | None:
    """`lstat` in a directory; None when there is nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def walk(written: int, image: int) -> Iterator[Change]:
    """Every change. Raises `OSError`, `TooDeep`."""
    levels = [Level("", os.dup(written), os.dup(image))]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop().close()
                continue
            path = level.path + name
            now = None if ours(path) else look(name, level.written)
            if now is None:  # ours, or gone since the directory was read
                continue
            was = level.was(name)
            if stat.S_ISCHR(now.st_mode) and now.st_rdev == 0:
                if was is not None:
                    yield Change(path, level, name, None, was, False)
            elif not stat.S_ISDIR(now.st_mode):
                yield Change(path, level, name, now, was, False)
            elif (below := _below(level, path, name, was)) is not None:
                levels.append(below)
                yield Change(path, level, name, now, was, _is_opaque(below.written))
                if len(levels) > MOST_DEPTH:
                    raise TooDeep(f"more than {MOST_DEPTH} directories in one another")
    finally:
        for level in levels:
            level.close()


def _below(level: Level, path: str, name: str, was: os.stat_result | None) -> Level | None:
    try:
        written = os.open(name, _DIRECTORY, dir_fd=level.written)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        image = -1
        if was is not None and stat.S_ISDIR(was.st_mode):
            image = os.open(name, _DIRECTORY, dir_fd=level.image)
        return Level(path + "/", written, image)
    except BaseException:
        os.close(written)
        raise


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False
