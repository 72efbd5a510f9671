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
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from hutch.errors import BootFailed, DiskFull, ThawFailed
from hutch.runtime import files, huge_pages, oci, probe, spawn
from hutch.runtime.base import Frozen, Handle, Runtime, SandboxSpec, Stats
from hutch.runtime.cgroups import CgroupLimits, detect
from hutch.runtime.cpu import host_cpu
from hutch.runtime.freezer import Freezer
from hutch.runtime.freezing import forget
from hutch.runtime.hurry import Hurry
from hutch.runtime.kernel import Kernel, KernelRefused
from hutch.runtime.manifest import ImageIdentity, Origin, read_manifest
from hutch.runtime.process import HostProcess
from hutch.runtime.runsc import Runsc
from hutch.runtime.trace.session import Level
from hutch.runtime.trace.tracer import Tracer

MEMORY_HEADROOM = 128 << 20
"""Memory of the sandbox's kernel itself, over what the guest may use."""

START_TIMEOUT = 30.0
"""Seconds for a boot, or for the thaw of an empty snapshot."""
SLOWEST_LOAD = 32 << 20
"""Bytes of a snapshot that a second is enough for."""
SOCKET_PATH_MAX = 107
KNOWN = "20240729"
"""The release whose words for a thaw into a kernel that was begun ahead we know (`links`, `Kernel.load`)."""
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
        self._begins = False

    async def check(self) -> list[str]:
        await asyncio.to_thread(huge_pages.allow)
        problems = await asyncio.to_thread(self._cgroups.problems)
        platform, wrong = await probe.find_platform(self._runsc.binary)
        self._runsc.platform = platform or self._runsc.platform
        if platform is not None:
            await self._tracer.probe(self._runsc.binary)
            self._begins = KNOWN in await self._runsc.version()
        return problems + wrong

    @property
    def trace(self) -> Level:
        return self._tracer.level

    @property
    def begins(self) -> bool:
        return self._begins

    def catch_up(self, id: str) -> None:
        self._tracer.catch_up(id)

    async def boot(self, spec: SandboxSpec) -> Handle:
        try:
            origin = await self._origin(spec, ())
        except OSError as error:
            raise BootFailed(f"sandbox {spec.id} cannot be booted: {error}") from error
        run = partial(self._runsc.run, spec.id, spec.directory, files.bundle(spec.directory))
        return await self._start(spec, origin, run, START_TIMEOUT, BootFailed)

    async def begin(self, spec: SandboxSpec) -> Handle:
        try:
            origin = await self._origin(spec, ())
        except OSError as error:
            raise BootFailed(f"no kernel can be begun: {error}") from error
        if KNOWN not in origin.version:
            raise BootFailed(f"with {origin.version} no kernels are begun ahead: only with release {KNOWN}")
        create = partial(self._runsc.create, spec.id, spec.directory, files.bundle(spec.directory))
        return await self._start(spec, origin, create, START_TIMEOUT, BootFailed, begin=True)

    async def freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        task = asyncio.create_task(self._freeze(handle, into, keep_running))
        self._freezing.add(task)  # else it may be collected when nobody waits for it any more
        task.add_done_callback(self._freezing.discard)
        return await asyncio.shield(task)

    async def thaw(self, spec: SandboxSpec, snapshot: Path, begun: Handle | None = None) -> Handle:
        saved = await asyncio.to_thread(read_manifest, snapshot)
        try:
            origin = await self._origin(spec, saved.origin.addresses)
        except OSError as error:
            raise ThawFailed(f"sandbox {spec.id} cannot be thawed: {error}") from error
        saved.check(origin, host_cpu())
        timeout = START_TIMEOUT + saved.bytes / SLOWEST_LOAD
        if begun is not None:
            return await self._load(spec, origin, snapshot, begun, timeout)
        restore = partial(self._runsc.restore, spec.id, spec.directory, files.bundle(spec.directory), snapshot)
        return await self._start(spec, origin, restore, timeout, ThawFailed)

    async def kill(self, id: str, directory: Path) -> None:
        self._peaks.pop(id, None)
        try:
            await asyncio.to_thread(self._destroy, id, directory)
        finally:
            self._tracer.forget(id)

    async def alive(self, handle: Handle) -> bool:
        process = files.recorded(handle.directory)
        return process is not None and process.pid == handle.pid and process.alive()

    async def stats(self, handle: Handle) -> Stats:
        usage, disk = await asyncio.to_thread(
            lambda: (self._cgroups.usage(handle.id), files.disk_bytes(handle.directory)),
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
        process = await asyncio.to_thread(_sandbox_in, directory)
        if process is None:
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
        *,
        begin: bool = False,
    ) -> Handle:
        """`begin`: only its kernel, which `command` leaves waiting."""
        try:
            await asyncio.to_thread((self._runsc.state_root / spec.id).mkdir, 0o700, parents=True)
        except FileExistsError as error:
            raise failure(f"sandbox {spec.id} is there already") from error
        async with self._or_nothing(spec, failure):
            await asyncio.to_thread(self._prepare, spec, origin, begin)
            options = self._tracer.prepare(spec.id, spec.directory, self._runsc.state_root / spec.id)
            async with asyncio.timeout(timeout):
                await spawn.launch(self._order(spec, origin, command(options)), self._hurry)
            handle = await asyncio.to_thread(self._record, spec, begin)
            if not begin:
                await self._tracer.attach(spec.id, self._runsc.control(spec.id))
        return handle

    async def _load(self, spec: SandboxSpec, origin: Origin, snapshot: Path, begun: Handle, timeout: float) -> Handle:
        """A thaw into a kernel that was begun. Its network comes first: what is loaded does not change that."""
        control = self._runsc.control(spec.id)
        kernel = Kernel(control)
        async with self._or_nothing(spec, ThawFailed):
            await asyncio.to_thread(self._wake, spec, origin, begun)
            async with asyncio.timeout(timeout):
                await kernel.link(spec.slot, origin.addresses[:-1])
                await kernel.load(snapshot, timeout)
            (spec.directory / files.BEGUN).unlink()
            await self._tracer.attach(spec.id, control)
        return begun

    @contextlib.asynccontextmanager
    async def _or_nothing(self, spec: SandboxSpec, failure: type[BootFailed | ThawFailed]) -> AsyncIterator[None]:
        """What is done in it comes to its end, or nothing of the sandbox is left: then it raises `failure`, `DiskFull`
        or that it was cancelled."""
        try:
            yield
        except (OSError, TimeoutError) as error:
            # Of a kernel that was begun the log says nothing of what it has just refused.
            said = "" if isinstance(error, KernelRefused) else await asyncio.to_thread(files.tail, spec.directory)
            await self.kill(spec.id, spec.directory)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise DiskFull("the node's disk is full") from error
            raise failure(f"sandbox {spec.id} did not start: {said or error or 'runsc timed out'}") from error
        except asyncio.CancelledError:
            await asyncio.shield(self.kill(spec.id, spec.directory))
            raise

    def _prepare(self, spec: SandboxSpec, origin: Origin, begin: bool) -> None:
        spec.directory.mkdir(parents=True, exist_ok=True)
        if begin:
            (spec.directory / files.BEGUN).touch()
        oci.write_bundle(spec, files.bundle(spec.directory), files.disk(spec.directory))
        memory = spec.resources.memory_mib << 20
        (spec.directory / files.MEMINFO).write_text(f"MemTotal: {memory >> 10} kB\n")
        files.write_atomically(spec.directory / files.ORIGIN, origin.model_dump_json())
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
            namespace=spawn.namespace_of(spec.slot),
            # A datagram socket that is bound to an address the sandbox does not have makes the thaw fail.
            addresses=origin.addresses[:-1],
            meminfo=spec.directory / files.MEMINFO,
            log=spec.directory / files.GUEST_LOG,
        )

    async def _freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        freezing, frozen = await self._freezer.freeze(handle, into, keep_running)
        try:
            if not keep_running and (process := await asyncio.to_thread(files.recorded, handle.directory)):
                process.kill()
        finally:
            await asyncio.to_thread(freezing.end)
        return frozen

    def _wake(self, spec: SandboxSpec, origin: Origin, begun: Handle) -> None:
        process = files.recorded(spec.directory)
        if process is None or process.pid != begun.pid or not process.alive():
            raise KernelRefused("the kernel that was begun for it has ended")
        was = Origin.model_validate_json((spec.directory / files.ORIGIN).read_bytes())
        if was.version != origin.version:  # the program was replaced meanwhile
            raise KernelRefused(f"the kernel that was begun for it is {was.version}, and {origin.version} is wanted")
        files.write_atomically(spec.directory / files.ORIGIN, origin.model_dump_json())
        self._cgroups.limit_cpus(spec.id, spec.resources.cpus)
        process.go_on()

    def _record(self, spec: SandboxSpec, begin: bool) -> Handle:
        pid = int((spec.directory / files.PID).read_text())
        process = HostProcess.of(pid)
        if process is None:
            raise OSError("the sandbox ended at once")
        files.write_atomically(spec.directory / files.PROCESS, json.dumps(process.to_dict()))
        if begin:  # one that waits wakes some hundred times a second, for nothing
            process.stop()
        return Handle(spec.id, pid, spec.directory)

    def _destroy(self, id: str, directory: Path) -> None:
        if process := files.recorded(directory):
            process.kill()
        self._cgroups.destroy(id)
        shutil.rmtree(self._runsc.state_root / id, ignore_errors=True)
        forget(directory)
        files.remove(directory)

    def _leftovers(self) -> list[str]:
        self._hurry.settle()
        root = self._runsc.state_root
        states = {entry.name for entry in root.iterdir()} - {HURRYING} if root.exists() else set()
        return sorted(states | set(self._cgroups.names()))


def _sandbox_in(directory: Path) -> HostProcess | None:
    """The kernel of a sandbox that runs: not one that was only begun, or was just being loaded."""
    process = files.recorded(directory)
    begun = (directory / files.BEGUN).exists()
    return process if process is not None and process.alive() and not begun else None
