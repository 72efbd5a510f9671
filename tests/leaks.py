"""What a node leaves on the host. Only objects that bear the node's own id are looked at: others may be at work."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class HostState:
    """Everything on the host that belongs to one node, by name."""

    namespaces: frozenset[str]
    links: frozenset[str]
    tables: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]
    """Processes that have a path of the node's directories, or its cgroup: sandboxes, helpers, and daemons."""

    def __sub__(self, before: HostState) -> dict[str, list[str]]:
        """What is here and was not there before, by kind; empty kinds are left out."""
        more = {f.name: sorted(getattr(self, f.name) - getattr(before, f.name)) for f in fields(self)}
        return {kind: names for kind, names in more.items() if names}


def look(node: str, *directories: Path) -> HostState:
    """Everything of the node with this short id, whose files lie below `directories`."""
    roots = tuple(str(directory) for directory in directories)
    return HostState(
        namespaces=frozenset(name for name in _names(Path("/run/netns")) if name.startswith(f"hutch-{node}-")),
        links=frozenset(name for name in _names(Path("/sys/class/net")) if name.startswith(f"h{node}x")),
        tables=frozenset(_tables(node)),
        cgroups=frozenset(_cgroups(node)),
        mounts=frozenset(_mounts(node, roots)),
        processes=frozenset(_processes(node, roots)),
    )


NOTHING = HostState(*(frozenset(),) * 6)


def assert_clean(node: str, *directories: Path) -> None:
    """Fail, naming what is left."""
    left = look(node, *directories) - NOTHING
    assert not left, f"left on the host by node {node}: {left}"


def _names(directory: Path) -> list[str]:
    return os.listdir(directory) if directory.is_dir() else []


def _tables(node: str) -> Iterator[str]:
    listed = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True, check=True).stdout
    for entry in json.loads(listed or "{}").get("nftables", []):
        table = entry.get("table", {})
        if table.get("name", "").startswith(f"hutch_{node}"):
            yield f"{table['family']} {table['name']}"


def _cgroups(node: str) -> Iterator[str]:
    root = Path("/sys/fs/cgroup")
    for pattern in (f"hutch-{node}", f"*/hutch-{node}", f"hutch-{node}/*/", f"*/hutch-{node}/*/"):
        yield from (str(path.relative_to(root)) for path in root.glob(pattern) if path.is_dir())


def _mounts(node: str, roots: tuple[str, ...]) -> Iterator[str]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split()[1]
        if target.startswith(f"/run/netns/hutch-{node}-") or _below(target, roots):
            yield target


def _processes(node: str, roots: tuple[str, ...]) -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            cgroup = (process / "cgroup").read_text()
        except OSError:
            continue
        if f"/hutch-{node}/" in cgroup or any(f"{root}/" in command for root in roots):
            yield f"{process.name} {command[:200]}"


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)
