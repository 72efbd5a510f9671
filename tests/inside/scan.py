"""Run as root inside a sandbox: where the given texts are, in the memory of every other process, in environments, in
command lines, and in every file that can be read. Prints JSON: text number -> places.

The texts come reversed, so that looking for one does not put it where it is looked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections import defaultdict
from collections.abc import Iterator

_PIECE = 1 << 20
_LONGEST = 256
_NOT_FILES = ("/proc", "/sys", "/dev")


def pieces(descriptor: int, start: int, end: int | None) -> Iterator[bytes]:
    """What stands there, each piece with the end of the one before it."""
    tail, at = b"", start
    while end is None or at < end:
        piece = os.pread(descriptor, _PIECE if end is None else min(_PIECE, end - at), at)
        if not piece:
            return
        yield tail + piece
        tail = piece[-_LONGEST:]
        at += len(piece)


def memory(pid: int) -> Iterator[bytes]:
    with open(f"/proc/{pid}/maps") as maps:
        lines = maps.read().splitlines()
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for line in lines:
            where, rights = line.split()[:2]
            start, end = (int(number, 16) for number in where.split("-"))
            if rights[0] == "r" and end < 1 << 63:
                yield from pieces(memory, start, end)
    finally:
        os.close(memory)


def file(path: str) -> Iterator[bytes]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield from pieces(descriptor, 0, None)
    finally:
        os.close(descriptor)


def files() -> Iterator[str]:
    for directory, below, names in os.walk("/"):
        if directory in _NOT_FILES:
            below.clear()
            continue
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield path


def main(texts: list[bytes]) -> dict[str, object]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    seen = {"bytes": 0, "processes": 0, "files": 0}

    def look(place: str, parts: Iterator[bytes]) -> None:
        for part in parts:
            seen["bytes"] += len(part)
            for number, text in enumerate(texts):
                if text in part and (not found[number] or found[number][-1] != place):
                    found[number].append(place)

    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid == os.getpid():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            look(f"memory of {pid}", memory(pid))
            for name in ("environ", "cmdline"):
                look(f"{name} of {pid}", file(f"/proc/{pid}/{name}"))
            seen["processes"] += 1
    for path in files():
        seen["files"] += 1
        look(path, file(path))
    return {"found": {str(number): places for number, places in found.items() if places}, "seen": seen}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main([text[::-1].encode() for text in sys.argv[1:]])))
