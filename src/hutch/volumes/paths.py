"""A volume by paths, for the content API. `..` leads no higher than the root, and links are not followed: they mean
something in the sandbox only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from hutch.volumes.schema import ROOT
from hutch.volumes.tree import Attributes, Tree

MAX_PATH = 4096
MAX_LISTED = 100_000
"""Entries of one answer."""
_MAX_LETTERS = 16 << 20
"""Of their paths together."""
_BATCH = 1000


def parts_of(path: str) -> list[bytes]:
    """The names on the way. Raises EINVAL, ENAMETOOLONG."""
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path has no NUL")
    if len(path) > MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, "too long a path")
    clean = os.path.normpath("/" + path)
    return [os.fsencode(name) for name in clean.split("/") if name]


def find(tree: Tree, parts: list[bytes]) -> Attributes:
    """What is there. Raises ENOENT, ENOTDIR."""
    found = tree.get(ROOT)
    for name in parts:
        found = tree.lookup(found.ino, name)
    return found


def make_directories(tree: Tree, parts: list[bytes], mode: int, uid: int, gid: int) -> Attributes:
    """The directory there, made with its parents where it is missing. Raises ENOTDIR."""
    found = tree.get(ROOT)
    for name in parts:
        try:
            found = tree.lookup(found.ino, name)
        except FileNotFoundError:
            found = tree.make(found.ino, name, stat.S_IFDIR | mode, uid, gid)
    if not found.is_dir:
        raise OSError(errno.ENOTDIR, "not a directory")
    return found


def walk(tree: Tree, parts: list[bytes], depth: int) -> list[tuple[str, Attributes]]:
    """What is below a directory, so many levels deep: paths, each directory before what is in it. Raises ENOTDIR,
    ENOENT, E2BIG."""
    found: list[tuple[str, Attributes]] = []
    letters = 0
    waiting = [(show(parts), find(tree, parts), depth)]
    while waiting:
        path, directory, levels = waiting.pop()
        for name, entry in _entries(tree, directory.ino):
            below = f"{path.rstrip('/')}/{os.fsdecode(name)}"
            found.append((below, entry))
            letters += len(below)
            if len(found) > MAX_LISTED or letters > _MAX_LETTERS:
                raise OSError(errno.E2BIG, f"more than {MAX_LISTED} entries, or too long paths: ask for a lower depth")
            if entry.is_dir and levels > 1:
                waiting.append((below, entry, levels - 1))
    return sorted(found, key=lambda each: each[0].split("/"))


def remove(tree: Tree, parts: list[bytes]) -> None:
    """Take it away, with all that is in it. Raises ENOENT, EBUSY for the root."""
    if not parts:
        raise OSError(errno.EBUSY, "the root of a volume cannot be removed")
    stack = [(find(tree, parts[:-1]).ino, parts[-1])]
    while stack:
        parent, name = stack[-1]
        found = tree.lookup(parent, name)
        below = tree.entries(found.ino, 0, _BATCH) if found.is_dir else []
        for _, child, entry in below:
            if entry.is_dir:
                stack.append((found.ino, child))
            else:
                tree.remove(found.ino, child, directory=False)
        if not below:
            stack.pop()
            tree.remove(parent, name, directory=found.is_dir)


def show(parts: list[bytes]) -> str:
    """The path, to be read."""
    return "/" + "/".join(os.fsdecode(part) for part in parts)


def _entries(tree: Tree, ino: int) -> Iterator[tuple[bytes, Attributes]]:
    after = 0
    while batch := tree.entries(ino, after, _BATCH):
        yield from ((name, entry) for _, name, entry in batch)
        after = batch[-1][0]
