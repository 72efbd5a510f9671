"""A disk as files of a snapshot.

disk.json     how much there is; written last
disk.index    a line of JSON for each path, as the guest packed it; for a file with its `digest`, and with `data`:
              [[offset in the file, length, place in disk.pages], ...]
disk.pages    the contents, each from a whole page on: so the store finds the pages of a file again wherever the
              next snapshot has it
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field, ValidationError

from hutch.errors import SnapshotCorrupt
from hutch.model import Model
from hutch.node.disk import entries
from hutch.node.disk.entries import MOST_LINE, Entry, Hostile

MANIFEST, INDEX, PAGES = "disk.json", "disk.index", "disk.pages"
PAGE = 4096
MOST_ENTRIES = 1 << 20
MOST_INDEX = 1 << 29
MOST_DIGESTED = 64 << 20
"""As the guest has it (`hutch_guest/changes/describe.py`)."""

_SEGMENT = struct.Struct(">QI")
_MOST_SEGMENT = 1 << 18
_LEAST_PAGES = 1 << 20
"""Below this the store would not cut the file into pages."""
_MOST_ENV = 2 << 20
_MOST_EXTENTS = 1 << 18
"""Of one file."""


class DiskManifest(Model):
    """What there is."""

    format: Literal[1] = 1
    entries: int = Field(ge=0)
    index_bytes: int = Field(ge=0)
    pages_bytes: int = Field(ge=0)
    env: dict[str, str] = Field(repr=False)
    """What is told again to the guest that is booted for it."""
    created_at: datetime


def write(source: BinaryIO, into: Path, most: int) -> DiskManifest:
    """Store a packed stream as files in the directory `into`. Blocks. `most`: bytes of content, in whole pages. Raises
    `Hostile`, `OSError`."""
    with (into / INDEX).open("wb") as index, (into / PAGES).open("wb") as pages:
        writer = _Writer(source, index, pages, most)
        env = _env(entries.parse_line(read_line(source)))
        count = writer.run()
        size = max(writer.place, _LEAST_PAGES)
        pages.truncate(size)
        manifest = DiskManifest(
            entries=count, index_bytes=index.tell(), pages_bytes=size, env=env, created_at=datetime.now(UTC)
        )
    (into / MANIFEST).write_text(manifest.model_dump_json())
    return manifest


def is_archive(directory: Path) -> bool:
    """Whether a snapshot has a disk."""
    return (directory / MANIFEST).exists()


def read_manifest(directory: Path) -> DiskManifest:
    """Raises `SnapshotCorrupt`, also when a file is not whole."""
    try:
        found = DiskManifest.model_validate_json((directory / MANIFEST).read_bytes())
        sizes = tuple((directory / name).stat().st_size for name in (INDEX, PAGES))
    except (OSError, ValidationError) as error:
        raise SnapshotCorrupt(f"snapshot {directory.name}: its disk cannot be read: {error}") from error
    if sizes != (found.index_bytes, found.pages_bytes):
        raise SnapshotCorrupt(f"snapshot {directory.name}: its disk is not whole")
    return found


def read_index(directory: Path) -> Iterator[Entry]:
    """All entries, in their order. Raises `SnapshotCorrupt`."""
    read_manifest(directory)
    with (directory / INDEX).open("rb") as index:
        for line in index:
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SnapshotCorrupt(f"snapshot {directory.name}: its disk's index cannot be read") from error


def stream(directory: Path) -> Iterator[bytes]:
    """The packed stream again, for a guest to put back. Blocks. Raises `SnapshotCorrupt`, `OSError`."""
    count = 0
    with (directory / PAGES).open("rb") as pages:
        for entry in read_index(directory):
            count += 1
            extents = entry.pop("data", [])
            for known in ("digest", "was"):
                entry.pop(known, None)
            yield json.dumps(entry, separators=(",", ":")).encode() + b"\n"
            if entry["type"] == "file":
                yield from _content(pages.fileno(), extents, directory.name)
    yield json.dumps({"end": True, "entries": count}).encode() + b"\n"


def content(directory: Path, entry: Entry) -> bytes:
    """A file's whole content, holes as zeros: for small ones. Raises `SnapshotCorrupt`, `OSError`."""
    data = bytearray(entry["size"])
    with (directory / PAGES).open("rb") as pages:
        for offset, length, place in entry["data"]:
            data[offset : offset + length] = _read(pages.fileno(), length, place, directory.name)
    return bytes(data)


def contents(source: BinaryIO, count: int, most: int) -> list[bytes | None]:
    """What a guest answers when it is asked for files (`hutch_guest/changes/reading.py`). Blocks. Raises `Hostile`."""
    found: list[bytes | None] = []
    while True:
        raw = entries.parse_line(read_line(source))
        if raw.get("end") and len(found) == count:
            return found
        size = raw.get("size")
        if "size" not in raw or len(found) == count:
            raise Hostile(str(raw.get("error", "the answer is not what was asked for"))[:300])
        found.append(None if size is None else _whole(source, size, most))


def read_line(source: BinaryIO) -> bytes:
    """One line. Raises `Hostile`."""
    line = source.readline(MOST_LINE)
    if not line.endswith(b"\n"):
        raise Hostile("the stream has ended too early")
    return line


def read_segment(source: BinaryIO) -> tuple[int, int]:
    """Offset and length of what comes next; length 0 behind the last. Raises `Hostile`."""
    head = source.read(_SEGMENT.size)
    if len(head) < _SEGMENT.size:
        raise Hostile("the stream has ended too early")
    offset, length = _SEGMENT.unpack(head)
    if length > _MOST_SEGMENT:
        raise Hostile("a segment is too long")
    return offset, length


def read_bytes(source: BinaryIO, length: int) -> bytes:
    """So many. Raises `Hostile`."""
    data = source.read(length)
    if len(data) < length:
        raise Hostile("the stream has ended too early")
    return data


def _whole(source: BinaryIO, size: object, most: int) -> bytes:
    if not isinstance(size, int) or not 0 <= size <= most:
        raise Hostile("a file has more bytes than were asked for")
    data = b""
    while True:
        offset, length = read_segment(source)
        if length == 0:
            break
        if offset != len(data) or offset + length > size:
            raise Hostile("a file's content is not in its order")
        data += read_bytes(source, length)
    if len(data) != size:
        raise Hostile("a file is shorter than it says")
    return data


def _content(pages: int, extents: list[list[int]], snapshot: str) -> Iterator[bytes]:
    for offset, length, place in extents:
        for at in range(0, length, _MOST_SEGMENT):
            part = min(_MOST_SEGMENT, length - at)
            yield _SEGMENT.pack(offset + at, part)
            yield _read(pages, part, place + at, snapshot)
    yield _SEGMENT.pack(0, 0)


def _read(pages: int, length: int, place: int, snapshot: str) -> bytes:
    data = os.pread(pages, length, place)
    if len(data) < length:
        raise SnapshotCorrupt(f"snapshot {snapshot}: its disk is not whole")
    return data


def _env(first: Entry) -> dict[str, str]:
    env = first.get("env")
    if not isinstance(env, dict):
        raise Hostile("the stream does not begin with the environment")
    if sum(entries.size_of_text(name) + entries.size_of_text(value) for name, value in env.items()) > _MOST_ENV:
        raise Hostile("the environment is too large")
    return env


class _Writer:
    """One stream on its way into the files."""

    def __init__(self, source: BinaryIO, index: BinaryIO, pages: BinaryIO, most: int) -> None:
        self._source = source
        self._index = index
        self._pages = pages.fileno()
        self._left = most
        self.place = 0

    def run(self) -> int:
        """To the end; how many entries there were."""
        count = 0
        while True:
            raw = entries.parse_line(read_line(self._source))
            if "error" in raw:
                raise Hostile(f"the guest says: {str(raw['error'])[:300]}")
            if raw.get("end"):
                if raw.get("entries") != count or self._source.read(1):
                    raise Hostile("the stream does not end as it says")
                return count
            count += 1
            if count > MOST_ENTRIES:
                raise Hostile(f"there are more than {MOST_ENTRIES} paths")
            self._add(entries.packed(raw))

    def _add(self, entry: Entry) -> None:
        if entry["type"] == "file":
            entry["data"], digest = self._store(entry["size"])
            if digest is not None:
                entry["digest"] = digest
        self._index.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        if self._index.tell() > MOST_INDEX:
            raise Hostile("the names of all paths are too long together")

    def _store(self, size: int) -> tuple[list[list[int]], str | None]:
        """A file's content: where it lies, and its digest unless it is too large for one."""
        extents: list[list[int]] = []
        sum = blake2b(digest_size=20) if size <= MOST_DIGESTED else None
        end = 0
        while (segment := self._segment()) is not None:
            offset, data = segment
            if offset < end or offset + len(data) > size:
                raise Hostile("a file's content is not in its order")
            if sum is not None:
                sum.update(bytes(offset - end))
                sum.update(data)
            self._put(extents, offset, end, data)
            end = offset + len(data)
        if sum is not None:
            sum.update(bytes(size - end))
        self.place += -self.place % PAGE
        return extents, sum.hexdigest() if sum is not None else None

    def _put(self, extents: list[list[int]], offset: int, end: int, data: bytes) -> None:
        if extents and offset == end:
            extents[-1][1] += len(data)
        else:
            self.place += -self.place % PAGE
            extents.append([offset, len(data), self.place])
            if len(extents) > _MOST_EXTENTS:
                raise Hostile("a file has too many holes")
        view = memoryview(data)
        while view:
            done = os.pwrite(self._pages, view, self.place)
            view, self.place = view[done:], self.place + done

    def _segment(self) -> tuple[int, bytes] | None:
        offset, length = read_segment(self._source)
        if length == 0:
            return None
        self._left -= length + -length % PAGE  # as it counts on the sandbox's own disk
        if self._left < 0:
            raise Hostile("it is more than the sandbox's disk holds")
        return offset, read_bytes(self._source, length)
