"""Listings of what differs from the image: read from a guest, or out of a snapshot's disk, and kept as files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hutch.errors import LimitReached
from hutch.node.disk import archive, entries
from hutch.node.disk.comparing import MOST_PATHS, Listed, Listing, same
from hutch.node.disk.entries import MOST_LINE, Entry, Hostile
from hutch.node.home import write_atomic

_KEPT = 64
_KEPT_BYTES = 64 << 20


def from_guest(source: BinaryIO) -> Listing:
    """What a guest lists. Blocks. Raises `Hostile`, `LimitReached`."""
    found: Listing = {}
    while True:
        line = source.readline(MOST_LINE)
        if not line.endswith(b"\n"):
            raise Hostile("the listing has ended too early")
        raw = entries.parse_line(line)
        if "error" in raw:
            raise Hostile(f"the guest says: {str(raw['error'])[:300]}")
        if raw.get("end"):
            return found
        path = entries.path(raw.get("path"))
        found[path] = Listed(*(entries.state(raw[key]) if raw.get(key) is not None else None for key in ("now", "was")))
        _check(found)


def from_archive(directory: Path) -> Listing:
    """What a snapshot's disk says. Blocks. Raises `SnapshotCorrupt`, `LimitReached`."""
    found: Listing = {}
    files: dict[str, Entry] = {}
    for entry in archive.read_index(directory):
        now, was = _state(entry, files), entry.get("was")
        if now is not None and now["type"] == "file":
            files[entry["path"]] = now
        if not same(was, now):
            found[entry["path"]] = Listed(now, was)
        _check(found)
    return found


def _state(entry: Entry, files: dict[str, Entry]) -> Entry | None:
    if entry["type"] in ("gone", "hidden"):
        return None
    if entry["type"] == "hardlink":
        return files.get(entry["target"])
    return {key: entry[key] for key in _STATE if key in entry}


_STATE = ("type", "mode", "uid", "gid", "mtime", "size", "target", "device", "digest")


def _check(found: Listing) -> None:
    if len(found) > MOST_PATHS:
        raise LimitReached(f"more than {MOST_PATHS} paths differ from the image", limit="diff_paths")


class Kept:
    """Listings of snapshots, which never change: a bounded number of files in a directory. All methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, snapshot: str) -> Listing | None:
        """None when it is not kept, or cannot be read."""
        path = self._directory / snapshot
        try:
            lines = zlib.decompress(path.read_bytes()).splitlines()
            path.touch()
            return {path: Listed(now, was) for path, now, was in map(json.loads, lines)}
        except (OSError, ValueError, zlib.error):
            return None

    def put(self, snapshot: str, listing: Listing) -> None:
        """Keep it, in place of what was used least recently. A full disk keeps none."""
        data = zlib.compress(b"\n".join(_lines(listing)), 1)
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


def _lines(listing: Listing) -> Iterable[bytes]:
    def line(values: list[Any]) -> bytes:
        return json.dumps(values, separators=(",", ":")).encode()

    def lines() -> Iterator[bytes]:
        for path, listed in listing.items():
            yield line([path, listed.now, listed.was])

    return lines()
