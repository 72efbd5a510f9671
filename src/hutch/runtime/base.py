"""What gives a sandbox its kernel: the interface that every runtime implements.

A runtime knows no agent, template, money or API. A new one is done when `tests/conformance/test_runtime.py` passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hutch.errors import BootFailed
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
    """A sandbox that was booted or thawed."""

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


@dataclass(frozen=True)
class Frozen:
    """A snapshot that was just made."""

    path: Path
    bytes: int
    stopped_ms: float
    """How long nothing ran inside, at most: until it went on, or until the snapshot was safe on the disk."""


class Runtime(ABC):
    """Boots, freezes, thaws, watches and kills sandboxes; nothing else."""

    name: str

    @property
    def trace(self) -> Literal["off", "processes", "all"]:
        """What the kernels of its sandboxes tell, from outside of the guest's reach: nothing, which programs are
        started, or also where processes connect to."""
        return "off"

    def catch_up(self, id: str) -> None:
        """Tell now what the sandbox's kernel has told already. Does not wait."""
        return

    @property
    def begins(self) -> bool:
        """Whether it can begin kernels ahead (`begin`)."""
        return False

    @abstractmethod
    async def check(self) -> list[str]:
        """Problems that keep this runtime from working here, each with what to do; empty when it works."""

    @abstractmethod
    async def boot(self, spec: SandboxSpec) -> Handle:
        """Start the sandbox; its PID 1 is running when this returns, though it may not answer yet.

        Raises `BootFailed`; then nothing of the sandbox is left (process, cgroup, mount, state).
        """

    @abstractmethod
    async def freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        """Save memory, processes and written files into the new directory `into`, which never changes afterwards and
        holds all that `thaw` needs but the image.

        With `keep_running` the sandbox goes on as soon as it is saved; else it stands still from the first moment on,
        is dead or dying at the end, and `kill` removes what is left of it: the host takes a while to take a large
        memory back, in which its caller may have better to do. `into` appears when it is whole and on the disk, not
        before.
        It is the sandbox's own kernel that saves: under a low CPU limit this takes long (`limit_cpus` before it).
        Connections to the outside are cut in either case, and both ends are told; those inside live on. A freeze that
        has begun goes to its end, also when its caller is cancelled. To be called for one sandbox once at a time.

        Raises `FreezeFailed`, or `DiskFull`; then there is no `into` and the sandbox runs on, if it still lives.
        """

    async def begin(self, spec: SandboxSpec) -> Handle:
        """Start a kernel before it is known what will be thawed in it: nothing runs inside, it stands still, and it
        takes no CPU. It is no sandbox: nothing but `thaw`, `kill`, `alive` and `stats` may be done with it, and no
        daemon adopts it.

        Raises `BootFailed`, also where this runtime cannot do it; then nothing is left.
        """
        raise BootFailed(f"the runtime {self.name} begins no kernels ahead")

    @abstractmethod
    async def thaw(self, spec: SandboxSpec, snapshot: Path, begun: Handle | None = None) -> Handle:
        """Start a new sandbox from a snapshot: its processes go on where they were. As often as wanted, also at the
        same time; each has disk, memory and network address of its own.

        `begun`: what `begin` gave for the same `spec`, but for its CPUs; the sandbox is that one then.

        The host name and PID 1's environment are the snapshot's; `resources.disk_mib` and `.pids` have to be. Both
        clocks inside are the present's: timers that have been due meanwhile go off at once.

        Raises `SnapshotIncompatible` or `SnapshotCorrupt` before anything is done; `ThawFailed` or `DiskFull`, after
        which nothing of the sandbox is left.
        """

    @abstractmethod
    async def kill(self, id: str, directory: Path) -> None:
        """End the sandbox and remove all that `boot` or `thaw` made, and what a freeze has not finished, in any state;
        a second call does nothing."""

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
        """The handle of a sandbox that an earlier daemon booted or thawed; None when it does not run any more.

        One that the daemon was about to freeze goes on. (Whoever finds the finished snapshot of a freeze without
        `keep_running` had better `kill` the sandbox than adopt it: what it does from here on is not in there.)
        """

    @abstractmethod
    async def limit_cpus(self, handle: Handle, cpus: float) -> None:
        """Hold it to this many CPU cores from now on, in place of what `boot` was told. Raises `OSError`."""

    @abstractmethod
    async def leftovers(self) -> list[str]:
        """Ids of all sandboxes of which anything exists on this host (state, cgroup, process)."""
