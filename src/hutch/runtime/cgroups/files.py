"""The small files that control groups consist of. What is gone or cannot be read counts as empty."""

from __future__ import annotations

import os
from pathlib import Path


def subdirectories(parent: Path) -> list[Path]:
    """The groups in a group."""
    try:
        return [entry for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def write(path: Path, value: int | str) -> None:
    """Write to a file that must exist, and may be only for writing (`cgroup.kill`). Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    finally:
        os.close(descriptor)


def text(path: Path) -> str:
    """A file's content. Some are read many times a second: no layers between."""
    pieces = []
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while piece := os.read(descriptor, 1 << 16):
                pieces.append(piece)
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    return b"".join(pieces).decode()


def number(path: Path) -> int:
    """A file that is one number."""
    content = text(path).strip()
    return int(content) if content.isdigit() else 0


def pids(path: Path) -> list[int]:
    """A file of process numbers; 0 stands for one that is out of our PID namespace."""
    return [int(line) for line in text(path).split() if line.isdigit() and line != "0"]


def table(path: Path) -> dict[str, int]:
    """A file of `name number` lines."""
    rows = (line.split() for line in text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
