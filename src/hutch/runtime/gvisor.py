"""Sandboxes on gVisor: one `runsc` sandbox each.

What a sandbox is on the host, all of it named so that a later daemon finds it: a control group `hutch-<node>/<id>`
that holds every process from the first moment of a boot on, a directory `<state root>/<id>` of runsc's own, and our
files in the sandbox's directory. The sandbox's processes live in a PID namespace whose first process is the sandbox's
kernel, so that killing that one, or the control group, ends everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sys
from pathlib import Path

from hutch.errors import BootFailed, DiskFull
from hutch.runtime import oci, probe, spawn
from hutch.runtime.base import Handle, Runtime, SandboxSpec, Stats
from hutch.runtime.cgroups import CgroupLimits, detect
from hutch.runtime.process import HostProcess

MEMORY_HEADROOM = 128 << 20
"""Memory of the sandbox's kernel itself, over what the guest may use."""

BOOT_TIMEOUT = 30.0
SOCKET_PATH_MAX = 107
SANDBOX_ID_LENGTH = 26


def host_pids(guest: int) -> int:
    """Most host tasks for a sandbox whose guest may have `guest` processes and threads.

    Measured: systrap needs two host tasks for each guest process, and up to one more for each thread that runs, beside
    15 to 30 for the sandbox's kernel. There has to be room: a kernel that is refused a task dies.
    """
    return 4 * guest + 256


class GvisorRuntime(Runtime):
    """`runsc` with the systrap platform on EROFS images; see `hutch.runtime.oci` for the file system."""

    name = "gvisor"

    def __init__(self, runsc: str, state_root: Path, node: str, platform: str = "systrap") -> None:
        longest = len(str(state_root)) + len("//runsc-.sock") + 2 * SANDBOX_ID_LENGTH
        if longest > SOCKET_PATH_MAX:
            raise ValueError(f"{state_root} is too long a path: a sandbox's socket below it would exceed 107 bytes")
        self._runsc = runsc
        self._state_root = state_root
        self._platform = platform
        self._cgroups = detect(node)
        self._peaks: dict[str, int] = {}

    async def check(self) -> list[str]:
        problems = await asyncio.to_thread(self._cgroups.problems)
        platform, wrong = await probe.find_platform(self._runsc)
        self._platform = platform or self._platform
        return problems + wrong

    async def boot(self, spec: SandboxSpec) -> Handle:
        try:
            await asyncio.to_thread((self._state_root / spec.id).mkdir, 0o700, parents=True)
        except FileExistsError as error:
            raise BootFailed(f"sandbox {spec.id} is there already") from error
        try:
            await asyncio.to_thread(self._prepare, spec)
            async with asyncio.timeout(BOOT_TIMEOUT):
                await self._run(spec)
            return await asyncio.to_thread(self._record, spec)
        except (OSError, TimeoutError) as error:
            said = await asyncio.to_thread(_tail, spec.directory)
            await self.kill(spec.id, spec.directory)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DiskFull("the node's disk is full") from error
            raise BootFailed(f"sandbox {spec.id} did not start: {said or error or 'runsc timed out'}") from error
        except asyncio.CancelledError:
            await asyncio.shield(self.kill(spec.id, spec.directory))
            raise

    async def kill(self, id: str, directory: Path) -> None:
        self._peaks.pop(id, None)
        await asyncio.to_thread(self._destroy, id, directory)

    async def alive(self, handle: Handle) -> bool:
        process = _recorded(handle.directory)
        return process is not None and process.pid == handle.pid and process.alive()

    async def stats(self, handle: Handle) -> Stats:
        usage, disk = await asyncio.to_thread(
            lambda: (self._cgroups.usage(handle.id), _disk_bytes(handle.directory)),
        )
        peak = max(self._peaks.get(handle.id, 0), usage.memory_bytes)
        self._peaks[handle.id] = peak
        return Stats(
            cpu_seconds=usage.cpu_seconds,
            memory_bytes=usage.memory_bytes,
            memory_peak_bytes=peak,
            disk_bytes=disk,
            pids=usage.pids,
            oom_kills=usage.oom_kills,
            pids_refused=usage.pids_refused,
        )

    def memory_ceiling(self, handle: Handle) -> int:
        return self._cgroups.memory_ceiling(handle.id)

    async def adopt(self, id: str, directory: Path) -> Handle | None:
        process = await asyncio.to_thread(_recorded, directory)
        return Handle(id, process.pid, directory) if process and process.alive() else None

    async def limit_cpus(self, handle: Handle, cpus: float) -> None:
        await asyncio.to_thread(self._cgroups.limit_cpus, handle.id, cpus)

    async def leftovers(self) -> list[str]:
        return await asyncio.to_thread(self._leftovers)

    def _prepare(self, spec: SandboxSpec) -> None:
        spec.directory.mkdir(parents=True, exist_ok=True)
        oci.write_bundle(spec, _bundle(spec.directory), _disk(spec.directory))
        memory = spec.resources.memory_mib << 20
        (spec.directory / "meminfo").write_text(f"MemTotal: {memory >> 10} kB\n")
        self._cgroups.create(
            spec.id,
            CgroupLimits(
                memory_bytes=memory + MEMORY_HEADROOM,
                pids=host_pids(spec.resources.pids),
                cpus=spec.resources.cpus,
            ),
        )

    async def _run(self, spec: SandboxSpec) -> None:
        """Start runsc through the spawn helper and wait until PID 1 runs. Raises `OSError`."""
        order = {
            "cgroups": self._cgroups.join_files(spec.id),
            "namespace": f"/run/netns/{spec.slot.namespace}",
            "meminfo": str(spec.directory / "meminfo"),
            "argv": self._command(spec),
        }
        with await asyncio.to_thread(open, spec.directory / "guest.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-E", str(spawn.__file__), json.dumps(order)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the daemon's terminal is not for sandboxes
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        if code != 0:
            raise OSError(f"runsc ended with status {code}")

    def _command(self, spec: SandboxSpec) -> list[str]:
        return [
            self._runsc,
            f"--root={self._state_root / spec.id}",
            f"--log={spec.directory / 'runsc.log'}",
            f"--platform={self._platform}",
            "--network=sandbox",
            # Control groups are ours (runsc's own differ between versions 1 and 2).
            "--ignore-cgroups",
            "--net-disconnect-ok",
            # Without direct access to host files the sandbox runs as nobody, in a user namespace, with no capabilities.
            "--directfs=false",
            "--overlay2=none",
            *("run", "-detach", "-pid-file", str(spec.directory / "pid")),
            *("-bundle", str(_bundle(spec.directory)), spec.id),
        ]

    def _record(self, spec: SandboxSpec) -> Handle:
        pid = int((spec.directory / "pid").read_text())
        process = HostProcess.of(pid)
        if process is None:
            raise OSError("the sandbox ended at once")
        _write_atomically(spec.directory / "process.json", json.dumps(process.to_dict()))
        return Handle(spec.id, pid, spec.directory)

    def _destroy(self, id: str, directory: Path) -> None:
        if process := _recorded(directory):
            process.kill()
        self._cgroups.destroy(id)
        shutil.rmtree(self._state_root / id, ignore_errors=True)
        for path in (_bundle(directory), _disk(directory)):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("process.json", "pid", "meminfo", "runsc.log", "guest.log"):
            (directory / name).unlink(missing_ok=True)

    def _leftovers(self) -> list[str]:
        states = [entry.name for entry in self._state_root.iterdir()] if self._state_root.exists() else []
        return sorted({*states, *self._cgroups.names()})


def _bundle(directory: Path) -> Path:
    return directory / "bundle"


def _disk(directory: Path) -> Path:
    return directory / "disk"


def _recorded(directory: Path) -> HostProcess | None:
    """The sandbox's kernel as `boot` recorded it."""
    try:
        return HostProcess.from_dict(json.loads((directory / "process.json").read_text()))
    except (OSError, ValueError, KeyError):
        return None


def _disk_bytes(directory: Path) -> int:
    """Host blocks of the written files, and of the logs, which the guest can make grow as well."""
    paths = [directory / "guest.log", directory / "runsc.log"]
    with contextlib.suppress(OSError):
        paths += _disk(directory).iterdir()
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _tail(directory: Path) -> str:
    """The last thing that runsc or the guest said, for an error message."""
    for name in ("runsc.log", "guest.log"):
        with contextlib.suppress(OSError), open(directory / name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            if lines := file.read().decode(errors="replace").strip().splitlines():
                return _message(lines[-1])
    return ""


def _message(line: str) -> str:
    """runsc logs in JSON; the guest does not."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(line)["msg"])[:1000]
    return line[:1000]


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
