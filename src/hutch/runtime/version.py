"""Which release a program is, asked of the program once."""

from __future__ import annotations

import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

_TIMEOUT = 20.0


def version_of(program: str) -> str:
    """The first line that `program --version` prints; asked again when its file has changed. Blocks for some 20 ms.

    Raises `OSError` when it is not there or does not answer.
    """
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(f"`{program}` is not there")
    stat = Path(path).stat()
    return _ask(path, stat.st_ino, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _ask(path: str, inode: int, changed: int) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except subprocess.SubprocessError as error:
        raise OSError(f"{path} does not say its version: {error}") from error
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else "unknown"
