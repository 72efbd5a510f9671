"""The process that does it: `child.py {pack|list|read|restore} WRITTEN IMAGE ROOT [still]`; see `api/changes.py`.

WRITTEN, IMAGE and ROOT are directories. What it makes goes to standard output. `still`: everything else in the sandbox
stands still meanwhile, and goes on when standard input is closed, or nobody reads to the end.
"""

from __future__ import annotations

import json
import os
import sys
from typing import BinaryIO

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from hutch_guest.changes.listing import listing
from hutch_guest.changes.pack import pack
from hutch_guest.changes.reading import read
from hutch_guest.changes.restore import restore
from hutch_guest.changes.stream import Broken, write_line
from hutch_guest.changes.walk import TooDeep
from hutch_guest.processes import still

_BUFFER = 1 << 20
_MOST_REQUEST = 16 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TOLD = (OSError, Broken, TooDeep, ValueError, KeyError, TypeError, RecursionError, MemoryError)


def main(mode: str, written: str, image: str, root: str, *options: str) -> int:
    """Do one of them; the exit code."""
    with open(0, "rb", buffering=_BUFFER) as source:
        if "still" not in options:
            return _answer(mode, source, written, image, root)
        stopped = still.stopped()
        try:
            still.stop_all()
            code = _answer(mode, source, written, image, root)
            if code == 0:
                source.read(1)  # until the guest closes it
            return code
        finally:
            still.go_on(but=stopped)


def _answer(mode: str, source: BinaryIO, written: str, image: str, root: str) -> int:
    """The whole of standard output; what goes wrong is its last line."""
    try:
        with open(1, "wb", buffering=_BUFFER) as output:
            try:
                _do(mode, source, output, written, image, root)
            except BrokenPipeError:
                raise
            except _TOLD as error:
                write_line(output, {"error": f"{type(error).__name__}: {error}"[:500]})
                return 1
    except BrokenPipeError:
        return 1
    return 0


def _do(mode: str, source: BinaryIO, output: BinaryIO, written: str, image: str, root: str) -> None:
    if mode == "restore":
        write_line(output, {"restored": restore(source, os.open(root, _DIRECTORY))})
        return
    now, base = os.open(written, _DIRECTORY), os.open(image, _DIRECTORY)
    if mode == "pack":
        pack(output, now, base)
    elif mode == "list":
        listing(output, now, base)
    else:
        request = json.loads(source.read(_MOST_REQUEST))
        read(output, request["files"], {"now": now, "image": base}, request["most"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
