"""What gives a sandbox its kernel: the interface that every runtime implements.

A runtime knows no agent, template, money or API. A new one is done when `tests/conformance/test_runtime.py` passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from hutch.model import Resources
from hutch.network.base import Slot


@dataclass(frozen=True)
class SandboxSpec:
    """Everything a runtime needs to boot one sandbox."""

    id: str
    image: Path
    """The root file system, read-only (EROFS)."""
    resources: Resources
    slot: Slot
    hostname: str
    directory: Path
    """The sandbox's own directory on the host; the runtime keeps all it needs for `adopt` there."""
    env: dict[str, str] = field(default_factory=dict)
    """Environment of PID 1 (the guest), not of what runs in the sandbox."""


@dataclass(frozen=True)
class Handle:
    """A booted sandbox."""

    id: str
    pid: int
    """Host process that is the sandbox's kernel."""
    directory: Path


@dataclass(frozen=True)
class Stats:
    """What a sandbox uses, as the host sees it. Never asked of the guest."""

    cpu_seconds: float
    memory_bytes: int
    """Memory that cannot be reclaimed: without page cache."""
    memory_peak_bytes: int
    disk_bytes: int
    """Bytes allocated on the host for the sandbox's written files."""
    pids: int
    """Host processes and threads (not the guest's own count)."""
    oom_kills: int
    """Processes the host kernel has killed at the hard memory limit."""
    pids_refused: int = 0
    """How often the host kernel has refused the sandbox's kernel a process, which that does not survive."""


class Runtime(ABC):
    """Boots, watches and kills sandboxes; nothing else."""

    name: str

    @abstractmethod
    async def check(self) -> list[str]:
        """Problems that keep this runtime from working here, each with what to do; empty when it works."""

    @abstractmethod
    async def boot(self, spec: SandboxSpec) -> Handle:
        """Start the sandbox; its PID 1 is running when this returns, though it may not answer yet.

        Raises `BootFailed`; then nothing of the sandbox is left (process, cgroup, mount, state).
        """

    @abstractmethod
    async def kill(self, id: str, directory: Path) -> None:
        """End the sandbox and remove all that `boot` made, in any state; a second call does nothing."""

    @abstractmethod
    async def alive(self, handle: Handle) -> bool:
        """Whether the sandbox's kernel still runs."""

    @abstractmethod
    async def stats(self, handle: Handle) -> Stats:
        """What it uses now. After its death: the last figures that the host still has."""

    @abstractmethod
    def memory_ceiling(self, handle: Handle) -> int:
        """At least as much as `Stats.memory_bytes` would be now (page cache is in it). Takes microseconds, for a caller
        who asks many times a second. Large when it cannot be told."""

    @abstractmethod
    async def adopt(self, id: str, directory: Path) -> Handle | None:
        """The handle of a sandbox that an earlier daemon booted; None when it does not run any more."""

    @abstractmethod
    async def limit_cpus(self, handle: Handle, cpus: float) -> None:
        """Hold it to this many CPU cores from now on, in place of what `boot` was told. Raises `OSError`."""

    @abstractmethod
    async def leftovers(self) -> list[str]:
        """Ids of all sandboxes of which anything exists on this host (state, cgroup, process)."""
