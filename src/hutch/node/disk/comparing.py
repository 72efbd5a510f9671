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
    for path in sorted(before.keys() | after.keys()):
        if prefix and path != prefix and not path.startswith(prefix + "/"):
            continue
        listed = after.get(path) or before[path]
        old, new = _at(before, path, listed.was), _at(after, path, listed.was)
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
    if path in listing:
        return listing[path].now
    if image is None:
        return None
    end = path.rfind("/")
    while end > 0:
        above = listing.get(path[:end])
        if above is not None and (above.now is None or above.now["type"] != "directory"):
            return None
        end = path.rfind("/", 0, end)
    return image
