"""Control groups of sandboxes: `hutch-<node>/<sandbox>`, on version 1 and on version 2.

Version 2 is what most hosts have; version 1 (one hierarchy a controller) lives on in older hosts and in some
containers. Everything here blocks for microseconds to milliseconds: call it from a thread.
"""

from __future__ import annotations

from pathlib import Path

from hutch.runtime.cgroups.base import NEEDED, CgroupLimits, Cgroups, CgroupUsage
from hutch.runtime.cgroups.files import text
from hutch.runtime.cgroups.v1 import CgroupsV1
from hutch.runtime.cgroups.v2 import CgroupsV2

__all__ = ["CgroupLimits", "CgroupUsage", "Cgroups", "CgroupsV1", "CgroupsV2", "detect"]


def detect(node: str, mounts: str = "/proc/self/mounts") -> Cgroups:
    """The version in use here: 1 where the memory controller has a hierarchy of its own, else 2."""
    v1: dict[str, Path] = {}
    v2 = Path("/sys/fs/cgroup")
    for line in text(Path(mounts)).splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup":
            for controller in (*NEEDED, "cpuacct"):
                if controller in options.split(","):
                    v1.setdefault(controller, Path(where))
        elif kind == "cgroup2":
            v2 = Path(where)
    return CgroupsV1(node, v1) if "memory" in v1 else CgroupsV2(node, v2)
