"""Packing all that was written into a stream (`stream.py`)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from hutch_guest.changes.describe import attributes, describe, open_file
from hutch_guest.changes.listing import before, hidden_by
from hutch_guest.changes.stream import BLOCK, SEGMENT, write_line
from hutch_guest.changes.walk import Change, walk

_END = SEGMENT.pack(0, 0)
_PAGE = 4096
_ZERO_PAGE = bytes(_PAGE)


def pack(out: BinaryIO, written: int, image: int) -> None:
    """Write the stream, without its end if anything cannot be read. Sockets are left out: nobody listens on them where
    they would be put back. Raises `OSError`."""
    first: dict[tuple[int, int], str] = {}
    count = 0
    for change in walk(written, image):
        count += _pack_one(out, change, first)
        for hidden in hidden_by(change):
            write_line(out, {"path": hidden["path"], "type": "hidden", "was": hidden["was"]})
            count += 1
    write_line(out, {"end": True, "entries": count})


def _pack_one(out: BinaryIO, change: Change, first: dict[tuple[int, int], str]) -> int:
    now = change.now
    if now is not None and stat.S_ISSOCK(now.st_mode):
        return 0
    was = before(change)
    known = {"was": was} if was is not None else {}
    if now is None:
        write_line(out, {"path": change.path, "type": "gone", **known})
        return 1
    identity = (now.st_dev, now.st_ino)
    if identity in first:
        write_line(out, {"path": change.path, "type": "hardlink", "target": first[identity], **known})
        return 1
    if now.st_nlink > 1 and not stat.S_ISDIR(now.st_mode):
        first[identity] = change.path
    entry = {"path": change.path, **describe(now, change.name, change.written), **known}
    if change.opaque:
        entry["opaque"] = True
    if not (stat.S_ISREG(now.st_mode) or stat.S_ISDIR(now.st_mode)):
        write_line(out, entry)
        return 1
    descriptor = open_file(change.name, change.written)
    try:
        if found := attributes(descriptor):
            entry["xattrs"] = found
        write_line(out, entry)
        if stat.S_ISREG(now.st_mode):
            _pack_content(out, descriptor, now.st_size)
    finally:
        os.close(descriptor)
    return 1


def _pack_content(out: BinaryIO, descriptor: int, size: int) -> None:
    offset = 0
    while offset < size and (block := os.read(descriptor, min(BLOCK, size - offset))):
        for start, end in _filled(block):
            out.write(SEGMENT.pack(offset + start, end - start))
            out.write(block[start:end])
        offset += len(block)
    out.write(_END)


def _filled(block: bytes) -> Iterator[tuple[int, int]]:
    """The parts of a block that are no pages of zeros. (gVisor does not say where a file has holes.)"""
    if _ZERO_PAGE not in block:
        yield 0, len(block)
        return
    start = None
    for at in range(0, len(block), _PAGE):
        page = block[at : at + _PAGE]
        if page == _ZERO_PAGE[: len(page)]:
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(block)
