"""What both versions of control groups have in common."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from hutch.runtime.cgroups.files import pids, subdirectories, text

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
    pids_refused: int = 0


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
        content = text(self.memory_file(name)).strip()
        return int(content) if content.isdigit() else 1 << 62

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
        return sorted({entry.name for parent in parents for entry in subdirectories(parent)})

    def processes(self, name: str) -> set[int]:
        """Processes in the group, by any of its hierarchies."""
        return {pid for directory in self.directories(name) for pid in pids(directory / "cgroup.procs")}

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


def quota(cpus: float) -> int:
    """Microseconds of CPU in each `PERIOD`."""
    return max(1000, int(cpus * PERIOD))


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
