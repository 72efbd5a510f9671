"""Control groups of version 1: a hierarchy for each controller."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hutch.runtime.cgroups.base import NEEDED, PERIOD, CgroupLimits, Cgroups, CgroupUsage, quota
from hutch.runtime.cgroups.files import number, table, write


class CgroupsV1(Cgroups):
    """One directory in each controller's own hierarchy."""

    def __init__(self, node: str, mounts: dict[str, Path]) -> None:
        super().__init__(node)
        self._mounts = mounts

    def problems(self) -> list[str]:
        return [
            f"no cgroup controller `{controller}`: boot the kernel with it, or mount its hierarchy below /sys/fs/cgroup"
            for controller in NEEDED
            if controller not in self._mounts
        ]

    def directories(self, name: str) -> list[Path]:
        return [mount / self.parent / name for mount in dict.fromkeys(self._mounts.values())]

    def _create(self, name: str, limits: CgroupLimits) -> None:
        for directory in self.directories(name):
            directory.mkdir(parents=True, exist_ok=True)
        memory = self._directory("memory", name)
        write(memory / "memory.limit_in_bytes", limits.memory_bytes)
        with contextlib.suppress(OSError):  # absent without swap accounting; fails where there is no swap
            write(memory / "memory.swappiness", 0)
        with contextlib.suppress(OSError):
            write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        write(self._directory("pids", name) / "pids.max", limits.pids)
        self.limit_cpus(name, limits.cpus)

    def limit_cpus(self, name: str, cpus: float) -> None:
        cpu = self._directory("cpu", name)
        burst = cpu / "cpu.cfs_burst_us"  # since Linux 5.14: what an idle sandbox has saved, it may use at once
        with contextlib.suppress(OSError):
            write(burst, 0)  # it may never be more than the quota
        write(cpu / "cpu.cfs_period_us", PERIOD)
        write(cpu / "cpu.cfs_quota_us", quota(cpus))
        with contextlib.suppress(OSError):
            write(burst, quota(cpus))

    def memory_file(self, name: str) -> Path:
        return self._directory("memory", name) / "memory.usage_in_bytes"

    def usage(self, name: str) -> CgroupUsage:
        memory = self._directory("memory", name)
        stat = table(memory / "memory.stat")
        cache = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
        return CgroupUsage(
            cpu_seconds=number(self._directory("cpuacct", name) / "cpuacct.usage") / 1e9,
            memory_bytes=max(0, number(self.memory_file(name)) - cache),
            pids=number(self._directory("pids", name) / "pids.current"),
            pids_refused=table(self._directory("pids", name) / "pids.events").get("max", 0),
            oom_kills=table(memory / "memory.oom_control").get("oom_kill", 0),
        )

    def _directory(self, controller: str, name: str) -> Path:
        return self._mounts.get(controller, Path("/nonexistent")) / self.parent / name
