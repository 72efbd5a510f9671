"""How changes travel: a line of JSON for each path, and behind a file's line its content.

    {"path", "type", "mode", "uid", "gid", "mtime", "size", "target", "device", "xattrs", "opaque"}\\n
    [offset: u64][length: u32][bytes] ... [0][0]          for a file: what is not given is a hole
    {"end": true, "entries": n}\\n                         or {"error": "..."}\\n

`type` is file, directory, symlink, hardlink (`target`: the path of the first name), fifo, char, block, gone (removed),
or hidden (gone with a directory above it). `was` is what the image has there, as in a listing. `mtime` is in
nanoseconds. Names that are not UTF-8 are escaped surrogates in the JSON.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

SEGMENT = struct.Struct(">QI")
MOST_LINE = 1 << 20
BLOCK = 1 << 18
"""Most bytes of a segment."""


class Broken(Exception):
    """The stream is not what it should be."""


def write_line(out: BinaryIO, entry: dict[str, Any]) -> None:
    """One line."""
    out.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")


def read_line(source: BinaryIO) -> dict[str, Any]:
    """One line. Raises `Broken`."""
    line = source.readline(MOST_LINE)
    if not line.endswith(b"\n"):
        raise Broken("the stream has ended too early")
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise Broken("a line is not an object")
    return entry


def read_segment(source: BinaryIO) -> tuple[int, bytes] | None:
    """Offset and bytes; None behind the last one. Raises `Broken`."""
    head = source.read(SEGMENT.size)
    if len(head) < SEGMENT.size:
        raise Broken("the stream has ended too early")
    offset, length = SEGMENT.unpack(head)
    if length == 0:
        return None
    if length > BLOCK:
        raise Broken("a segment is too long")
    data = source.read(length)
    if len(data) < length:
        raise Broken("the stream has ended too early")
    return offset, data
