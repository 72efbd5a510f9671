"""Control groups of version 2: one hierarchy for all controllers."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hutch.runtime.cgroups.base import NEEDED, PERIOD, CgroupLimits, Cgroups, CgroupUsage, quota
from hutch.runtime.cgroups.files import number, table, text, write


class CgroupsV2(Cgroups):
    """One directory for all controllers."""

    def __init__(self, node: str, mount: Path) -> None:
        super().__init__(node)
        self._mount = mount

    def problems(self) -> list[str]:
        present = text(self._mount / "cgroup.controllers").split()
        return [
            f"cgroup controller `{controller}` is not available at {self._mount}: "
            "boot the kernel with it, or let the container that Hutch runs in delegate it"
            for controller in NEEDED
            if controller not in present
        ]

    def directories(self, name: str) -> list[Path]:
        return [self._mount / self.parent / name]

    def _create(self, name: str, limits: CgroupLimits) -> None:
        parent = self._mount / self.parent
        parent.mkdir(exist_ok=True)
        for directory in (self._mount, parent):
            _enable(directory)
        group = parent / name
        group.mkdir(exist_ok=True)
        write(group / "memory.max", limits.memory_bytes)
        with contextlib.suppress(OSError):  # absent without swap accounting
            write(group / "memory.swap.max", 0)
        write(group / "memory.oom.group", 1)
        write(group / "pids.max", limits.pids)
        self.limit_cpus(name, limits.cpus)

    def limit_cpus(self, name: str, cpus: float) -> None:
        group = self._mount / self.parent / name
        burst = group / "cpu.max.burst"  # since Linux 5.14: what an idle sandbox has saved, it may use at once
        with contextlib.suppress(OSError):
            write(burst, 0)  # it may never be more than the quota
        write(group / "cpu.max", f"{quota(cpus)} {PERIOD}")
        with contextlib.suppress(OSError):
            write(burst, quota(cpus))

    def memory_file(self, name: str) -> Path:
        return self._mount / self.parent / name / "memory.current"

    def usage(self, name: str) -> CgroupUsage:
        group = self._mount / self.parent / name
        stat = table(group / "memory.stat")
        cache = stat.get("inactive_file", 0) + stat.get("active_file", 0)
        return CgroupUsage(
            cpu_seconds=table(group / "cpu.stat").get("usage_usec", 0) / 1e6,
            memory_bytes=max(0, number(self.memory_file(name)) - cache),
            pids=number(group / "pids.current"),
            pids_refused=table(group / "pids.events").get("max", 0),
            oom_kills=table(group / "memory.events").get("oom_kill", 0),
        )

    def _kill(self, name: str) -> None:
        try:
            write(self._mount / self.parent / name / "cgroup.kill", 1)
        except OSError:  # Linux before 5.14
            super()._kill(name)


def _enable(directory: Path) -> None:
    """Let the children of this group have the controllers."""
    control = directory / "cgroup.subtree_control"
    missing = [controller for controller in NEEDED if controller not in text(control).split()]
    if missing:
        write(control, " ".join(f"+{controller}" for controller in missing))
