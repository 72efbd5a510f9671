"""Unified diffs of texts that guests have written.

By the `diff` program, as nobody, with a limit of time: it copes with any two files, where Python's own takes minutes
for what was made to keep it busy.
"""

from __future__ import annotations

import os
import subprocess

MOST_FILE = 256 << 10
_NOBODY = 65534
_SECONDS = 5.0


def is_text(data: bytes) -> bool:
    """UTF-8 without control characters that texts have not."""
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def unified(path: str, before: bytes | None, after: bytes | None) -> str | None:
    """The diff, with names as git has them; None when it takes too long. Blocks."""
    sides = [(f"a/{path}", before), (f"b/{path}", after)]
    labels = [name if data is not None else "/dev/null" for name, data in sides]
    files = [_in_memory(data or b"") for _, data in sides]
    names = [f"/dev/fd/{file}" for file in files]
    argv = ["diff", "-u", "--label", _quoted(labels[0]), "--label", _quoted(labels[1]), *names]
    try:
        nobody = _NOBODY if os.geteuid() == 0 else None
        done = subprocess.run(
            argv,
            pass_fds=files,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
            user=nobody,
            group=nobody,
            extra_groups=[] if nobody else None,
        )
    except subprocess.TimeoutExpired:
        return None
    finally:
        for file in files:
            os.close(file)
    return done.stdout.decode("utf-8", "replace") if done.returncode in (0, 1) else None


def _in_memory(data: bytes) -> int:
    file = os.memfd_create("hutch-diff", os.MFD_CLOEXEC)
    os.write(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def _quoted(label: str) -> str:
    """On one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in label)
