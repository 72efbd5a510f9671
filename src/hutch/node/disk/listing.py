"""Listings of what differs from the image: read from a guest, or out of a snapshot's disk, and kept as files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from sys import getsizeof
from typing import BinaryIO

from hutch.errors import LimitReached
from hutch.node.disk import archive, entries
from hutch.node.disk.comparing import MOST_PATHS, Listed, Listing, same
from hutch.node.disk.entries import MOST_LINE, Entry, Hostile
from hutch.node.home import write_atomic

_KEPT = 64
_KEPT_BYTES = 64 << 20
_MOST_BYTES = 64 << 20
"""Of the texts in one listing, and of one that is kept."""


def from_guest(source: BinaryIO) -> Listing:
    """What a guest lists. Blocks. Raises `Hostile`, `LimitReached`."""
    found = _Growing()
    while True:
        line = source.readline(MOST_LINE)
        if not line.endswith(b"\n"):
            raise Hostile("the listing has ended too early")
        raw = entries.parse_line(line)
        if "error" in raw:
            raise Hostile(f"the guest says: {str(raw['error'])[:300]}")
        if raw.get("end"):
            return found.listing
        path = entries.path(raw.get("path"))
        found.add(path, *(entries.state(raw[key]) if raw.get(key) is not None else None for key in ("now", "was")))


def from_archive(directory: Path) -> Listing:
    """What a snapshot's disk says. Blocks. Raises `SnapshotCorrupt`, `LimitReached`."""
    found, files = _Growing(), _Growing()
    for entry in archive.read_index(directory):
        now, was = _state(entry, files.listing), entry.get("was")
        if now is not None and now["type"] == "file":
            files.add(entry["path"], now, None)
        if not same(was, now):
            found.add(entry["path"], now, was)
    return found.listing


def _state(entry: Entry, files: Listing) -> Entry | None:
    if entry["type"] in ("gone", "hidden"):
        return None
    if entry["type"] == "hardlink":
        known = files.get(entry["target"])
        return known.now if known is not None else None
    return {key: entry[key] for key in _STATE if key in entry}


_STATE = ("type", "mode", "uid", "gid", "mtime", "size", "target", "device", "digest")


class _Growing:
    """A listing, as far as the node has memory for one: Python's own is bounded by the number of paths, that of their
    texts is counted."""

    def __init__(self) -> None:
        self.listing: Listing = {}
        self._left = _MOST_BYTES

    def add(self, path: str, now: Entry | None, was: Entry | None) -> None:
        """Raises `LimitReached`."""
        self.listing[path] = Listed(now, was)
        self._left -= getsizeof(path)
        self._left -= sum(getsizeof(v) for state in (now, was) if state for v in state.values() if isinstance(v, str))
        if len(self.listing) > MOST_PATHS:
            raise LimitReached(f"more than {MOST_PATHS} paths differ from the image", limit="diff_paths")
        if self._left < 0:
            raise LimitReached(
                f"the names of what differs from the image are more than {_MOST_BYTES >> 20} MiB", limit="diff_bytes"
            )


class Kept:
    """Listings of snapshots, which never change: a bounded number of files in a directory. All methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, snapshot: str) -> Listing | None:
        """None when it is not kept, or cannot be read."""
        path = self._directory / snapshot
        try:
            reader = zlib.decompressobj()
            data = reader.decompress(path.read_bytes(), _MOST_BYTES)
            if not reader.eof:
                return None
            path.touch()
            return {path: Listed(now, was) for path, now, was in map(json.loads, data.splitlines())}
        except (OSError, ValueError, zlib.error):
            return None

    def put(self, snapshot: str, listing: Listing) -> None:
        """Keep it, in place of what was used least recently. A full disk keeps none, and none that is too large."""
        data = _compressed(listing)
        if data is None:
            return
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._directory / snapshot, data)
            self._shrink()
        except OSError:
            return

    def _shrink(self) -> None:
        files = sorted(((path.stat(), path) for path in self._directory.iterdir()), key=lambda one: -one[0].st_mtime)
        total = 0
        for number, (found, path) in enumerate(files):
            total += found.st_size
            if number >= _KEPT or total > _KEPT_BYTES:
                path.unlink(missing_ok=True)


def _compressed(listing: Listing) -> bytes | None:
    """None when it is more than `get` would read."""
    writer, data, left = zlib.compressobj(1), bytearray(), _MOST_BYTES
    for path, listed in listing.items():
        line = json.dumps([path, listed.now, listed.was], separators=(",", ":")).encode() + b"\n"
        left -= len(line)
        if left < 0:
            return None
        data += writer.compress(line)
    return bytes(data + writer.flush())
