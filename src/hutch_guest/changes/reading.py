"""Reading some files out of what was written, or out of the image: for comparisons of their text."""

from __future__ import annotations

import os
import stat
from typing import Any, BinaryIO

from hutch_guest.changes.describe import open_file
from hutch_guest.changes.stream import BLOCK, SEGMENT, write_line

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_END = SEGMENT.pack(0, 0)


def read(out: BinaryIO, wanted: list[dict[str, Any]], layers: dict[str, int], most: int) -> None:
    """Of each {"path", "layer"} a line {"size"}, and behind it the content; `size` null, and no content, for what is
    no file, or has more than `most` bytes."""
    for each in wanted:
        content = _content(str(each["path"]), layers[str(each["layer"])], most)
        write_line(out, {"size": None if content is None else len(content)})
        if content is not None:
            for offset in range(0, len(content), BLOCK):
                part = content[offset : offset + BLOCK]
                out.write(SEGMENT.pack(offset, len(part)))
                out.write(part)
            out.write(_END)
    write_line(out, {"end": True, "entries": len(wanted)})


def _content(path: str, root: int, most: int) -> bytes | None:
    current = os.dup(root)
    try:
        *above, name = path.split("/")
        for part in above:
            below = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = below
        descriptor = open_file(name, current)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    finally:
        os.close(current)
    return content if len(content) <= most else None
