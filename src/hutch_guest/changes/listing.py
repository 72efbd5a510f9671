"""Listing what differs from the image, one line of JSON a path: {"path", "now": {...} or null, "was": {...} or null}.

A file that was written but is as it was (touched, or copied up by the overlay) is not listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from hutch_guest.changes.describe import MOST_DIGESTED, describe, digest
from hutch_guest.changes.stream import write_line
from hutch_guest.changes.walk import Change, look, ours, walk

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def listing(out: BinaryIO, written: int, image: int) -> None:
    """Write all lines, and the end. Sockets are left out, as they are when it is packed. Raises `OSError`."""
    count = 0
    for change in walk(written, image):
        if change.now is not None and stat.S_ISSOCK(change.now.st_mode):
            continue
        for entry in _entries(change):
            write_line(out, entry)
            count += 1
    write_line(out, {"end": True, "entries": count})


def _entries(change: Change) -> Iterator[dict[str, Any]]:
    try:
        now = _state(change.now, change.name, change.written, True)
        was = _state(change.was, change.name, change.image, False)
        if now is not None and was is not None and _same(change, now, was):
            now = was
    except FileNotFoundError:  # gone since it was looked at
        return
    if now != was:
        yield {"path": change.path, "now": now, "was": was}
    yield from hidden_by(change)


def hidden_by(change: Change) -> Iterator[dict[str, Any]]:
    """What the image has below a path, and nobody sees any more because of this change, as removed."""
    if change.was is None or not stat.S_ISDIR(change.was.st_mode):
        return
    if change.now is None or not stat.S_ISDIR(change.now.st_mode):
        yield from _below(change.path, change.name, change.image)
    elif change.opaque:
        yield from _hidden(change)


def before(change: Change) -> dict[str, Any] | None:
    """What the image has at the path; with its digest where size and type do not tell it from what is there now."""
    was, now = change.was, change.now
    if was is None:
        return None
    doubtful = now is not None and stat.S_ISREG(now.st_mode) and now.st_size == was.st_size
    return _state(was, change.name, change.image, doubtful and stat.S_ISREG(was.st_mode))


def _state(found: os.stat_result | None, name: str, directory: int, digested: bool) -> dict[str, Any] | None:
    if found is None:
        return None
    state = describe(found, name, directory)
    if digested and state["type"] == "file" and found.st_size <= MOST_DIGESTED:
        state["digest"] = digest(name, directory)
    return state


def _same(change: Change, now: dict[str, Any], was: dict[str, Any]) -> bool:
    """But for the time at which it was written."""
    if {**now, "mtime": 0, "digest": ""} != {**was, "mtime": 0, "digest": ""}:
        return False
    if now["type"] != "file":
        return True
    if "digest" not in now:
        return bool(now["mtime"] == was["mtime"])
    return bool(now["digest"] == digest(change.name, change.image))


def _hidden(change: Change) -> Iterator[dict[str, Any]]:
    """What the image has in a directory that was made anew."""
    written = os.open(change.name, _DIRECTORY, dir_fd=change.written)
    try:
        kept = set(os.listdir(written))
    finally:
        os.close(written)
    yield from _below(change.path, change.name, change.image, kept)


def _below(path: str, name: str, directory: int, kept: set[str] | None = None) -> Iterator[dict[str, Any]]:
    """Everything that the image has below a directory, as removed, but what is `kept`."""
    descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        for child in sorted(set(os.listdir(descriptor)) - (kept or set())):
            below = f"{path}/{child}"
            found = None if ours(below) else look(child, descriptor)
            if found is not None:
                yield {"path": below, "now": None, "was": _state(found, child, descriptor, False)}
                if stat.S_ISDIR(found.st_mode):
                    yield from _below(below, child, descriptor)
    finally:
        os.close(descriptor)
