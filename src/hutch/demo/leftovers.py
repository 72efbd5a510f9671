"""What a Hutch in its own directories could leave on this machine, to see that it does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Traces:
    """Where to look, and what was found there."""

    root: Path
    node: str
    found: tuple[str, ...] = ()

    def left(self) -> Traces:
        """What is there now."""
        return Traces(self.root, self.node, tuple(_look(self.root, self.node)))

    def names(self) -> list[str]:
        return list(self.found)

    def __bool__(self) -> bool:
        return bool(self.found)


def traces_of(root: Path) -> Traces:
    """To be asked before the end, while the node's id can still be read; its names on the host carry the id."""
    try:
        node = (root / "data" / "node" / "id").read_text().strip()
    except OSError:
        node = ""
    return Traces(root, node)


def _look(root: Path, node: str) -> Iterator[str]:
    mark = str(root).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid() and _belongs(Path("/proc") / pid, mark):
            yield f"process {pid}"
    yield from (f"mount {line.split()[1]}" for line in _lines("/proc/mounts") if str(root) in line)
    if node:
        names = [*_children("/run/netns"), *_children("/sys/class/net")]
        yield from (f"network {name}" for name in names if name.startswith((f"hutch-{node}-", f"h{node}x")))
        # Not `glob`, which fails when a group of somebody else goes away under its feet.
        for parent, children, _ in os.walk("/sys/fs/cgroup"):
            yield from (f"cgroup {parent}/{name}" for name in children if name == f"hutch-{node}")


def _belongs(process: Path, mark: bytes) -> bool:
    try:
        return mark in (process / "cmdline").read_bytes()
    except OSError:
        return False


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _children(path: str) -> list[str]:
    return os.listdir(path) if os.path.isdir(path) else []
