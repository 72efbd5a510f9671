"""Two listings of what differs from the image, compared with each other.

A path that a listing has not is as the image has it, unless a directory above it is gone, or was made anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hutch.node.disk.entries import Entry

MOST_PATHS = 100_000
"""In one listing."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One path of a listing: what it is, and what the image has there."""

    now: Entry | None
    was: Entry | None


Listing = dict[str, Listed]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path, at two points."""

    path: str
    before: Entry | None
    after: Entry | None

    @property
    def change(self) -> Literal["added", "changed", "removed"]:
        """What happened to it."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"


def compare(before: Listing, after: Listing, prefix: str = "") -> Iterator[Difference]:
    """What differs, sorted by path; `prefix`: only that path, and what is below it."""
    paths = before.keys() | after.keys()
    in_order = sorted(paths, key=lambda path: path.replace("/", "\0"))  # a directory right before what is below it
    lost_before, lost_after = _lost(before, in_order), _lost(after, in_order)
    for path in sorted(paths):
        if prefix and path != prefix and not path.startswith(prefix + "/"):
            continue
        listed = after.get(path) or before[path]
        old = _at(before, path, None if path in lost_before else listed.was)
        new = _at(after, path, None if path in lost_after else listed.was)
        if not same(old, new):
            yield Difference(path, old, new)


def same(old: Entry | None, new: Entry | None) -> bool:
    """Whether nobody would notice: all but the time, and for a file what is in it. A directory's time is not looked at;
    a file's stands for its content where there is no digest."""
    if old is None or new is None:
        return old is new
    if any(old.get(key) != new.get(key) for key in ("type", "mode", "uid", "gid", "size", "target", "device")):
        return False
    if old["type"] != "file":
        return True
    if "digest" in old and "digest" in new:
        return bool(old["digest"] == new["digest"])
    return bool(old["mtime"] == new["mtime"])


def _at(listing: Listing, path: str, image: Entry | None) -> Entry | None:
    return listing[path].now if path in listing else image


def _lost(listing: Listing, in_order: list[str]) -> set[str]:
    """Those below something that is no directory there (any more). One look at each: paths may be thousands of names
    deep."""
    lost, above = set(), None
    for path in in_order:
        if above is not None and path.startswith(above):
            lost.add(path)
        elif (listed := listing.get(path)) is not None and (listed.now is None or listed.now["type"] != "directory"):
            above = path + "/"
    return lost
