"""Control groups of sandboxes: `hutch-<node>/<sandbox>`, on version 1 and on version 2.

Version 2 is what most hosts have; version 1 (one hierarchy a controller) lives on in older hosts and in some
containers. Everything here blocks for microseconds to milliseconds: call it from a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("memory", "pids", "cpu")
PERIOD = 100_000
"""CPU quota period in microseconds."""


@dataclass(frozen=True)
class CgroupLimits:
    """Hard limits that the host's kernel enforces."""

    memory_bytes: int
    pids: int
    cpus: float


@dataclass(frozen=True)
class CgroupUsage:
    """What the kernel has counted."""

    cpu_seconds: float = 0.0
    memory_bytes: int = 0
    pids: int = 0
    oom_kills: int = 0


class Cgroups(ABC):
    """The control groups of one node."""

    def __init__(self, node: str) -> None:
        self.parent = f"hutch-{node}"

    @abstractmethod
    def problems(self) -> list[str]:
        """What keeps limits from working here; empty when they do."""

    @abstractmethod
    def directories(self, name: str) -> list[Path]:
        """The directories that make up one group."""

    @abstractmethod
    def _create(self, name: str, limits: CgroupLimits) -> None:
        """Make the group with its limits in force. Raises `OSError`."""

    @abstractmethod
    def limit_cpus(self, name: str, cpus: float) -> None:
        """Hold the group to this many cores. Raises `OSError`."""

    @abstractmethod
    def usage(self, name: str) -> CgroupUsage:
        """What its processes use; zeros for what cannot be read."""

    @abstractmethod
    def memory_file(self, name: str) -> Path:
        """Where the kernel says how much memory is charged to the group, page cache included."""

    def memory_ceiling(self, name: str) -> int:
        """What that file says; a lot when it cannot be read."""
        text = _text(self.memory_file(name)).strip()
        return int(text) if text.isdigit() else 1 << 62

    def create(self, name: str, limits: CgroupLimits) -> None:
        """Make the group with its limits in force. Raises `OSError`."""
        for last in (False, False, False, True):
            try:
                return self._create(name, limits)
            except FileNotFoundError:  # the node's own group, being empty, was removed in the middle of this
                if last:
                    raise

    def join_files(self, name: str) -> list[str]:
        """The files into which a process writes `0` to enter the group."""
        return [str(directory / "cgroup.procs") for directory in self.directories(name)]

    def exists(self, name: str) -> bool:
        return any(directory.exists() for directory in self.directories(name))

    def names(self) -> list[str]:
        """All groups of this node."""
        parents = {directory.parent for directory in self.directories("x")}
        return sorted({entry.name for parent in parents for entry in _subdirectories(parent)})

    def processes(self, name: str) -> set[int]:
        """Processes in the group, by any of its hierarchies."""
        return {pid for directory in self.directories(name) for pid in _pids(directory / "cgroup.procs")}

    def destroy(self, name: str, timeout: float = 10.0) -> None:
        """Kill what is in the group until it is empty, and remove it, and with the last one the node's own group.

        Raises `TimeoutError` when it does not become empty.
        """
        end = time.monotonic() + timeout
        pause = 0.002
        while True:
            self._kill(name)
            if all([_remove(directory) for directory in self.directories(name)]):
                break
            if time.monotonic() > end:
                raise TimeoutError(f"processes of cgroup {self.parent}/{name} do not die")
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
        for directory in self.directories(name):
            with contextlib.suppress(OSError):
                directory.parent.rmdir()

    def _kill(self, name: str) -> None:
        for pid in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


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
        _write(memory / "memory.limit_in_bytes", limits.memory_bytes)
        with contextlib.suppress(OSError):  # absent without swap accounting; fails where there is no swap
            _write(memory / "memory.swappiness", 0)
        with contextlib.suppress(OSError):
            _write(memory / "memory.memsw.limit_in_bytes", limits.memory_bytes)
        _write(self._directory("pids", name) / "pids.max", limits.pids)
        self.limit_cpus(name, limits.cpus)

    def limit_cpus(self, name: str, cpus: float) -> None:
        cpu = self._directory("cpu", name)
        _write(cpu / "cpu.cfs_period_us", PERIOD)
        _write(cpu / "cpu.cfs_quota_us", _quota(cpus))

    def memory_file(self, name: str) -> Path:
        return self._directory("memory", name) / "memory.usage_in_bytes"

    def usage(self, name: str) -> CgroupUsage:
        memory = self._directory("memory", name)
        stat = _table(memory / "memory.stat")
        cache = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
        return CgroupUsage(
            cpu_seconds=_number(self._directory("cpuacct", name) / "cpuacct.usage") / 1e9,
            memory_bytes=max(0, _number(self.memory_file(name)) - cache),
            pids=_number(self._directory("pids", name) / "pids.current"),
            oom_kills=_table(memory / "memory.oom_control").get("oom_kill", 0),
        )

    def _directory(self, controller: str, name: str) -> Path:
        return self._mounts.get(controller, Path("/nonexistent")) / self.parent / name


class CgroupsV2(Cgroups):
    """One directory for all controllers."""

    def __init__(self, node: str, mount: Path) -> None:
        super().__init__(node)
        self._mount = mount

    def problems(self) -> list[str]:
        present = _text(self._mount / "cgroup.controllers").split()
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
        _write(group / "memory.max", limits.memory_bytes)
        with contextlib.suppress(OSError):  # absent without swap accounting
            _write(group / "memory.swap.max", 0)
        _write(group / "memory.oom.group", 1)
        _write(group / "pids.max", limits.pids)
        self.limit_cpus(name, limits.cpus)

    def limit_cpus(self, name: str, cpus: float) -> None:
        _write(self._mount / self.parent / name / "cpu.max", f"{_quota(cpus)} {PERIOD}")

    def memory_file(self, name: str) -> Path:
        return self._mount / self.parent / name / "memory.current"

    def usage(self, name: str) -> CgroupUsage:
        group = self._mount / self.parent / name
        stat = _table(group / "memory.stat")
        cache = stat.get("inactive_file", 0) + stat.get("active_file", 0)
        return CgroupUsage(
            cpu_seconds=_table(group / "cpu.stat").get("usage_usec", 0) / 1e6,
            memory_bytes=max(0, _number(self.memory_file(name)) - cache),
            pids=_number(group / "pids.current"),
            oom_kills=_table(group / "memory.events").get("oom_kill", 0),
        )

    def _kill(self, name: str) -> None:
        try:
            _write(self._mount / self.parent / name / "cgroup.kill", 1)
        except OSError:  # Linux before 5.14
            super()._kill(name)


def detect(node: str, mounts: str = "/proc/self/mounts") -> Cgroups:
    """The version in use here: 1 where the memory controller has a hierarchy of its own, else 2."""
    v1: dict[str, Path] = {}
    v2 = Path("/sys/fs/cgroup")
    for line in _text(Path(mounts)).splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup":
            for controller in (*NEEDED, "cpuacct"):
                if controller in options.split(","):
                    v1.setdefault(controller, Path(where))
        elif kind == "cgroup2":
            v2 = Path(where)
    return CgroupsV1(node, v1) if "memory" in v1 else CgroupsV2(node, v2)


def _quota(cpus: float) -> int:
    return max(1000, int(cpus * PERIOD))


def _enable(directory: Path) -> None:
    """Let the children of this group have the controllers."""
    control = directory / "cgroup.subtree_control"
    missing = [controller for controller in NEEDED if controller not in _text(control).split()]
    if missing:
        _write(control, " ".join(f"+{controller}" for controller in missing))


def _remove(directory: Path) -> bool:
    """Whether the group is gone."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _subdirectories(parent: Path) -> list[Path]:
    try:
        return [entry for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _write(path: Path, value: int | str) -> None:
    with path.open("w") as file:
        file.write(str(value))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _pids(path: Path) -> list[int]:
    return [int(line) for line in _text(path).split() if line.isdigit() and line != "0"]


def _table(path: Path) -> dict[str, int]:
    """A file of `name number` lines."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
