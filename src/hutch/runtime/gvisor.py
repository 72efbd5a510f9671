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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hutch.errors import BootFailed, DiskFull, ThawFailed
from hutch.runtime import huge_pages, oci, probe, spawn
from hutch.runtime.base import Frozen, Handle, Runtime, SandboxSpec, Stats
from hutch.runtime.cgroups import CgroupLimits, detect
from hutch.runtime.cpu import host_cpu
from hutch.runtime.freezer import ORIGIN, Freezer
from hutch.runtime.freezing import forget
from hutch.runtime.hurry import Hurry
from hutch.runtime.kernel import Kernel
from hutch.runtime.manifest import ImageIdentity, Origin, read_manifest
from hutch.runtime.process import HostProcess
from hutch.runtime.runsc import Runsc
from hutch.runtime.trace.session import Level
from hutch.runtime.trace.tracer import CONFIG, Tracer

MEMORY_HEADROOM = 128 << 20
"""Memory of the sandbox's kernel itself, over what the guest may use."""

START_TIMEOUT = 30.0
"""Seconds for a boot, or for the thaw of an empty snapshot."""
SLOWEST_LOAD = 32 << 20
"""Bytes of a snapshot that a second is enough for."""
SOCKET_PATH_MAX = 107
HURRYING = "hurrying"
"""The one file in the state root: everything else there is a sandbox's directory."""
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

    def __init__(
        self, runsc: str, state_root: Path, node: str, platform: str = "systrap", tracer: Tracer | None = None
    ) -> None:
        longest = len(str(state_root)) + len("//runsc-.sock") + 2 * SANDBOX_ID_LENGTH
        if longest > SOCKET_PATH_MAX:
            raise ValueError(f"{state_root} is too long a path: a sandbox's socket below it would exceed 107 bytes")
        self._runsc = Runsc(runsc, state_root, platform)
        self._freezer = Freezer(lambda id: Kernel(self._runsc.control(id)))
        self._hurry = Hurry(state_root / HURRYING)
        self._cgroups = detect(node)
        self._tracer = tracer or Tracer("off", lambda id, event: None)
        self._peaks: dict[str, int] = {}
        self._freezing: set[asyncio.Task[Frozen]] = set()

    async def check(self) -> list[str]:
        await asyncio.to_thread(huge_pages.allow)
        problems = await asyncio.to_thread(self._cgroups.problems)
        platform, wrong = await probe.find_platform(self._runsc.binary)
        self._runsc.platform = platform or self._runsc.platform
        if platform is not None:
            await self._tracer.probe(self._runsc.binary)
        return problems + wrong

    @property
    def trace(self) -> Level:
        return self._tracer.level

    def catch_up(self, id: str) -> None:
        self._tracer.catch_up(id)

    async def boot(self, spec: SandboxSpec) -> Handle:
        try:
            origin = await self._origin(spec, ())
        except OSError as error:
            raise BootFailed(f"sandbox {spec.id} cannot be booted: {error}") from error
        run = partial(self._runsc.run, spec.id, spec.directory, _bundle(spec.directory))
        return await self._start(spec, origin, run, START_TIMEOUT, BootFailed)

    async def freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        task = asyncio.create_task(self._freeze(handle, into, keep_running))
        self._freezing.add(task)  # else it may be collected when nobody waits for it any more
        task.add_done_callback(self._freezing.discard)
        return await asyncio.shield(task)

    async def thaw(self, spec: SandboxSpec, snapshot: Path) -> Handle:
        saved = await asyncio.to_thread(read_manifest, snapshot)
        try:
            origin = await self._origin(spec, saved.origin.addresses)
        except OSError as error:
            raise ThawFailed(f"sandbox {spec.id} cannot be thawed: {error}") from error
        saved.check(origin, host_cpu())
        restore = partial(self._runsc.restore, spec.id, spec.directory, _bundle(spec.directory), snapshot)
        timeout = START_TIMEOUT + saved.bytes / SLOWEST_LOAD
        return await self._start(spec, origin, restore, timeout, ThawFailed)

    async def kill(self, id: str, directory: Path) -> None:
        self._peaks.pop(id, None)
        try:
            await asyncio.to_thread(self._destroy, id, directory)
        finally:
            self._tracer.forget(id)

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
        if process is None or not process.alive():
            return None
        await self._freezer.recover(id, directory)
        await self._tracer.adopt(id, self._runsc.control(id))
        return Handle(id, process.pid, directory)

    async def limit_cpus(self, handle: Handle, cpus: float) -> None:
        await asyncio.to_thread(self._cgroups.limit_cpus, handle.id, cpus)

    async def leftovers(self) -> list[str]:
        return await asyncio.to_thread(self._leftovers)

    async def _origin(self, spec: SandboxSpec, earlier: tuple[str, ...]) -> Origin:
        """What the sandbox will be made of. Raises `OSError`."""
        version = await self._runsc.version()
        return Origin(
            runtime=self.name,
            version=version,
            image=await asyncio.to_thread(ImageIdentity.of, spec.image),
            resources=spec.resources,
            addresses=(
                *(address for address in earlier if address != spec.slot.guest_address),
                spec.slot.guest_address,
            ),
        )

    async def _start(
        self,
        spec: SandboxSpec,
        origin: Origin,
        command: Callable[[list[str]], list[str]],
        timeout: float,
        failure: type[BootFailed | ThawFailed],
    ) -> Handle:
        try:
            await asyncio.to_thread((self._runsc.state_root / spec.id).mkdir, 0o700, parents=True)
        except FileExistsError as error:
            raise failure(f"sandbox {spec.id} is there already") from error
        try:
            await asyncio.to_thread(self._prepare, spec, origin)
            options = self._tracer.prepare(spec.id, spec.directory, self._runsc.state_root / spec.id)
            async with asyncio.timeout(timeout):
                await spawn.launch(self._order(spec, origin, command(options)), self._hurry)
            handle = await asyncio.to_thread(self._record, spec)
            await self._tracer.attach(spec.id, self._runsc.control(spec.id))
            return handle
        except (OSError, TimeoutError) as error:
            said = await asyncio.to_thread(_tail, spec.directory)
            await self.kill(spec.id, spec.directory)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DiskFull("the node's disk is full") from error
            raise failure(f"sandbox {spec.id} did not start: {said or error or 'runsc timed out'}") from error
        except asyncio.CancelledError:
            await asyncio.shield(self.kill(spec.id, spec.directory))
            raise

    def _prepare(self, spec: SandboxSpec, origin: Origin) -> None:
        spec.directory.mkdir(parents=True, exist_ok=True)
        oci.write_bundle(spec, _bundle(spec.directory), _disk(spec.directory))
        memory = spec.resources.memory_mib << 20
        (spec.directory / "meminfo").write_text(f"MemTotal: {memory >> 10} kB\n")
        _write_atomically(spec.directory / ORIGIN, origin.model_dump_json())
        self._cgroups.create(
            spec.id,
            CgroupLimits(
                memory_bytes=memory + MEMORY_HEADROOM,
                pids=host_pids(spec.resources.pids),
                cpus=spec.resources.cpus,
            ),
        )

    def _order(self, spec: SandboxSpec, origin: Origin, argv: list[str]) -> spawn.Launch:
        return spawn.Launch(
            argv=argv,
            cgroups=self._cgroups.join_files(spec.id),
            namespace=f"/run/netns/{spec.slot.namespace}",
            # A datagram socket that is bound to an address the sandbox does not have makes the thaw fail.
            addresses=origin.addresses[:-1],
            meminfo=spec.directory / "meminfo",
            log=spec.directory / "guest.log",
        )

    async def _freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        freezing, frozen = await self._freezer.freeze(handle, into, keep_running)
        try:
            if not keep_running and (process := await asyncio.to_thread(_recorded, handle.directory)):
                process.kill()
        finally:
            await asyncio.to_thread(freezing.end)
        return frozen

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
        shutil.rmtree(self._runsc.state_root / id, ignore_errors=True)
        forget(directory)
        for path in (_bundle(directory), _disk(directory)):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("process.json", ORIGIN, "pid", "meminfo", "runsc.log", "guest.log", CONFIG):
            (directory / name).unlink(missing_ok=True)

    def _leftovers(self) -> list[str]:
        self._hurry.settle()
        root = self._runsc.state_root
        states = {entry.name for entry in root.iterdir()} - {HURRYING} if root.exists() else set()
        return sorted(states | set(self._cgroups.names()))


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
