"""A node's manager on a host of cardboard: real records, journal and snapshots, and kernels that are numbers.

Every touch of the host is a step, and the daemon can be killed at any one of them: from then on nothing that it still
does has an effect. The host, as a real one would, remembers.
"""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from hutch.egress.brokering import Broker
from hutch.egress.fencing import Fence
from hutch.egress.identity import IdentityDoor
from hutch.egress.llm.gateway import LlmGateway
from hutch.errors import GuestUnavailable, ThawFailed
from hutch.images.cache import Cache
from hutch.images.lookup import BuiltImage
from hutch.images.made import MadeTemplates
from hutch.model import NetworkPolicy, Recipe, Resources, SnapshotRecord, TemplateInfo
from hutch.network.base import Slot, SlotPool
from hutch.node.activity import Activity
from hutch.node.asking import Desk
from hutch.node.budgets import Budgets
from hutch.node.dialing import Dialer
from hutch.node.disk import archive
from hutch.node.disk.comparing import Listed, Listing
from hutch.node.egress import Egress
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Registry
from hutch.node.guest import GuestClient
from hutch.node.guest_disk import GuestDisk
from hutch.node.home import NodeHome
from hutch.node.journal import Journal
from hutch.node.parts import Parts
from hutch.node.pins import Pins
from hutch.node.records import RecordStore
from hutch.node.sandboxes import Sandboxes
from hutch.node.secrets import NodeSecrets
from hutch.node.snapshots import Snapshots
from hutch.node.sweep import Takeover
from hutch.node.tracing import Tracing
from hutch.runtime.base import Frozen, Handle, Runtime, SandboxSpec, Stats
from hutch.runtime.cpu import host_cpu
from hutch.runtime.manifest import MANIFEST, ImageIdentity, Manifest, Origin
from hutch.settings import Settings
from hutch.snapshots import SnapshotStore
from hutch.snapshots.disk import Disk

T = TypeVar("T")

RESOURCES = Resources(cpus=1, memory_mib=64, disk_mib=64, pids=16)


class Killed(BaseException):
    """kill -9."""


@dataclass
class Kernel:
    """A sandbox that runs."""

    memory: int
    token: str
    address: str
    cpus: float
    owner: str | None = None
    """The sandbox that it was last told to be."""
    still: bool = False
    empty: bool = False
    """Begun ahead, and nothing thawed in it so far."""


@dataclass
class Host:
    """What outlives a daemon."""

    root: Path
    kernels: dict[str, Kernel] = field(default_factory=dict)
    slots: set[int] = field(default_factory=set)
    steps: list[str] = field(default_factory=list)
    kill_at: int = -1
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    fail: str = ""
    """The step that goes wrong."""
    wrong: BaseException | None = None
    times: int = 1
    """How often `wrong` happens."""
    disk: Disk = field(default_factory=Disk)
    """Of the snapshots."""
    boot: str | None = None
    """The machine's, if not this one's: another after a power cut."""
    most_snapshot_bytes: int | None = None
    """What an organisation's snapshots may take."""
    env: bytes = b""
    """What guests say of their environment when they pack, if not the truth."""
    packed: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))
    """What becomes of a disk on its way."""
    at_work: Callable[[str, Kernel], None] = field(default=lambda work, kernel: None)
    """Told of a guest that does something for the node."""
    looked_at: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0.01))
    """What becomes of a look at a disk on its way."""

    def step(self, name: str) -> None:
        """Something is about to touch the host."""
        if self.killed.is_set():
            raise Killed
        if len(self.steps) == self.kill_at:
            self.killed.set()
            raise Killed
        self.steps.append(name)
        if name == self.fail and self.wrong is not None:
            wrong, self.times = self.wrong, self.times - 1
            if self.times == 0:
                self.wrong, self.times = None, 1
            raise wrong


class Kept:
    """A host as it was at one moment, to go on from again and again: at the same place, for records know theirs."""

    def __init__(self, host: Host) -> None:
        self._root, self._copy = host.root, host.root.with_name(f"{host.root.name}-kept")
        self._kernels, self._slots = copy.deepcopy(host.kernels), set(host.slots)
        shutil.copytree(self._root, self._copy, symlinks=True)

    def again(self) -> Host:
        """What came of the last time is gone."""
        shutil.rmtree(self._root)
        shutil.copytree(self._copy, self._root, symlinks=True)
        return Host(self._root, copy.deepcopy(self._kernels), set(self._slots))


class PaperRuntime(Runtime):
    """A kernel's whole memory is a number."""

    name = "paper"

    def __init__(self, host: Host) -> None:
        self._host = host

    @property
    def begins(self) -> bool:
        return True

    async def check(self) -> list[str]:
        return []

    async def boot(self, spec: SandboxSpec) -> Handle:
        self._host.step("boot")
        self._host.kernels[spec.id] = Kernel(0, "", spec.slot.guest_address, spec.resources.cpus)
        return self._handle(spec.id, spec.directory)

    async def begin(self, spec: SandboxSpec) -> Handle:
        self._host.step("begin")
        address = spec.slot.guest_address
        self._host.kernels[spec.id] = Kernel(0, "", address, spec.resources.cpus, empty=True)
        return self._handle(spec.id, spec.directory)

    async def freeze(self, handle: Handle, into: Path, keep_running: bool) -> Frozen:
        host, partial = self._host, into.with_name(f".{into.name}.partial")
        host.step("freeze")
        partial.mkdir()
        kernel = host.kernels[handle.id]
        data = json.dumps({"memory": kernel.memory, "token": kernel.token}).encode()
        (partial / "pages.img").write_bytes(data)
        origin = Origin(
            runtime=self.name,
            version="1",
            image=ImageIdentity(path="image", bytes=1, superblock="s"),
            resources=RESOURCES,
            addresses=(kernel.address,),
        )
        manifest = Manifest(origin=origin, cpu=host_cpu(), files={"pages.img": len(data)}, created_at=datetime.now(UTC))
        (partial / MANIFEST).write_text(manifest.model_dump_json())
        try:
            host.step("seal")
        except (Exception, asyncio.CancelledError):
            shutil.rmtree(partial)
            raise
        partial.rename(into)  # without `keep_running` it is dying, which may take longer than this daemon lives
        return Frozen(into, len(data), 1.0)

    async def thaw(self, spec: SandboxSpec, snapshot: Path, begun: Handle | None = None) -> Handle:
        try:
            self._host.step("thaw")
        except ThawFailed:
            self._host.kernels.pop(spec.id, None)
            raise
        there = self._host.kernels.get(spec.id)
        assert (there is not None and there.empty) == (begun is not None)
        assert there is None or there.address == spec.slot.guest_address
        saved = json.loads((snapshot / "pages.img").read_bytes())
        self._host.kernels[spec.id] = Kernel(
            saved["memory"], saved["token"], spec.slot.guest_address, spec.resources.cpus
        )
        return self._handle(spec.id, spec.directory)

    async def kill(self, id: str, directory: Path) -> None:
        self._host.step("kill")
        self._host.kernels.pop(id, None)
        for partial in directory.parent.glob(".frozen-*.partial"):
            shutil.rmtree(partial)

    async def alive(self, handle: Handle) -> bool:
        return handle.id in self._host.kernels

    async def stats(self, handle: Handle) -> Stats:
        return Stats(1.0, 1, 1, 1, 1, 0)

    def memory_ceiling(self, handle: Handle) -> int:
        return 1

    async def adopt(self, id: str, directory: Path) -> Handle | None:
        for partial in directory.parent.glob(".frozen-*.partial"):
            shutil.rmtree(partial)
        return self._handle(id, directory) if id in self._host.kernels else None

    async def limit_cpus(self, handle: Handle, cpus: float) -> None:
        self._host.step("limit")
        self._host.kernels[handle.id].cpus = cpus

    async def leftovers(self) -> list[str]:
        return list(self._host.kernels)

    def _handle(self, id: str, directory: Path) -> Handle:
        return Handle(id, os.getpid(), directory)


class PaperSlots(SlotPool):
    """Numbers that are never lent twice."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._next = max(host.slots, default=0)

    @property
    def free(self) -> int:
        return 1

    @property
    def network(self) -> IPv4Network:
        return IPv4Network("10.0.0.0/16")

    @property
    def dialer(self) -> int:
        return 0

    async def start(self, in_use: dict[str, int], policies: dict[str, NetworkPolicy] | None = None) -> None:
        assert set(in_use.values()) <= self._host.slots
        self._host.slots = set(in_use.values())

    async def acquire(self, sandbox: str, policy: NetworkPolicy) -> Slot:
        self._host.step("acquire")
        self._next += 1
        self._host.slots.add(self._next)
        return self.slot(self._next)

    async def set_policy(self, slot: Slot, policy: NetworkPolicy) -> None:
        self._host.step("policy")

    async def resolve(self, address: str, targets: list[tuple[str, int]], seconds: float) -> None:
        """There is no fence."""

    async def close_names(self) -> None:
        """There is no fence."""

    async def refusals(self) -> dict[str, int]:
        return {}

    async def release(self, slot: Slot) -> None:
        self._host.step("release")
        self._host.slots.discard(slot.index)

    def slot(self, index: int) -> Slot:
        return Slot(index, f"ns{index}", f"l{index}", f"10.0.{index}.1", f"10.0.{index}.2", 30)

    async def stop(self) -> None:
        """Nothing runs."""

    async def remove_all(self) -> None:
        self._host.slots.clear()


class PaperFence:
    """Lets nothing through."""

    async def allow(self, sandbox: str, address: str, policy: NetworkPolicy, *, wait: bool = True) -> None:
        """Nothing listens."""

    async def forget(self, address: str) -> None:
        """Nothing listens."""

    async def drop(self, address: str) -> None:
        """Nothing listens."""


class PaperBroker:
    """Nobody has secrets."""

    def of(self, sandbox: str) -> None:
        """Nothing."""

    async def grant(self, sandbox: str, grant: object) -> None:
        """Nothing listens."""

    async def forget(self, sandbox: str) -> None:
        """Nothing listens."""

    async def stop(self) -> None:
        """Nothing listens."""


class PaperGuests:
    """Guests that insist on their token."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def prepare(self, address: str, sandbox: str | None, token: str, *rest: Any, **more: Any) -> None:
        self._host.step("prepare")
        kernel = self._at(address)
        kernel.token, kernel.owner = token, sandbox

    async def ready(self, address: str, within: float) -> None:
        self._host.step("ready")

    async def call(self, *request: Any, **more: Any) -> bytes:
        self._host.step("call")
        return b""

    async def thaw(
        self, address: str, sandbox: str | None, *, frozen_tokens: list[str], token: str, **more: Any
    ) -> None:
        self._host.step("introduce")
        kernel = self._at(address)
        self._host.at_work("introduce", kernel)
        if kernel.token not in frozen_tokens:
            raise GuestUnavailable("wrong token", status=401)
        kernel.token, kernel.owner = token, sandbox

    async def renew_token(self, address: str, known: list[str], token: str, former_seconds: float) -> None:
        self._host.step("renew")
        kernel = self._at(address)
        if kernel.token not in (*known, token):
            raise GuestUnavailable("wrong token", status=401)
        kernel.token = token

    def _at(self, address: str) -> Kernel:
        found = [kernel for kernel in self._host.kernels.values() if kernel.address == address]
        if not found:
            raise GuestUnavailable("nobody is there")
        (kernel,) = found
        return kernel


class PaperDisks:
    """A kernel's whole disk is the number in its memory."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def pack(self, address: str, token: str, into: Path, most: int) -> archive.DiskManifest:
        self._host.step("pack")
        kernel = self._kernel(address, token)
        kernel.still = True
        self._host.at_work("pack", kernel)
        await self._host.packed()
        env = self._host.env or b'{"number": "%d"}' % kernel.memory
        packed = b'{"env": %s}\n{"end": true, "entries": 0}\n' % env
        return archive.write(io.BytesIO(packed), into, most)

    async def restore(self, address: str, token: str, directory: Path) -> None:
        self._host.step("restore")
        kernel = self._kernel(address, token)
        self._host.at_work("restore", kernel)
        kernel.memory = int(archive.read_manifest(directory).env["number"])

    async def changes(self, address: str, token: str, *, still: bool) -> Listing:
        self._host.step("changes")
        await self._host.looked_at()
        kernel = self._kernel(address, token)
        kernel.still = still or kernel.still
        state = {"type": "file", "mode": 0o644, "uid": 0, "gid": 0, "mtime": kernel.memory}
        return {"number": Listed(state | {"size": 1 + kernel.memory}, state | {"mtime": -1, "size": 1})}

    async def read(self, address: str, token: str, layer: str, paths: list[str], most: int) -> list[bytes | None]:
        self._host.step(f"read {layer}")
        await self._host.looked_at()
        memory = self._kernel(address, token).memory if layer == "now" else -1
        return [b"%d\n" % memory for _ in paths]

    async def go_on(self, address: str, token: str) -> None:
        self._host.step("go on")
        self._kernel(address, token).still = False

    def _kernel(self, address: str, token: str) -> Kernel:
        kernel = next((each for each in self._host.kernels.values() if each.address == address), None)
        if kernel is None:
            raise GuestUnavailable("nobody is there")
        assert kernel.token == token
        return kernel


class SteppingRecords(RecordStore):
    """Each write is a step."""

    host: Host

    async def _run(self, work: Callable[[], T]) -> T:
        self.host.step("record")
        return await super()._run(work)


class SteppingStore(SnapshotStore):
    """Each change is a step."""

    host: Host

    async def admit(self, directory: Path, record: SnapshotRecord) -> SnapshotRecord:
        self.host.step("admit")
        return await super().admit(directory, record)

    async def delete(self, id: str) -> None:
        self.host.step("delete")
        await super().delete(id)


@dataclass
class Daemon:
    """One life of the node."""

    host: Host
    parts: Parts
    sandboxes: Sandboxes

    async def unless_killed(self, work: Awaitable[T]) -> T | None:
        """The result; None when the daemon was killed over it."""
        doing = asyncio.ensure_future(work)
        killed = asyncio.ensure_future(self.host.killed.wait())
        try:
            await asyncio.wait({doing, killed}, return_when=asyncio.FIRST_COMPLETED)
            if killed.done():
                return None
            return await doing
        except Killed:
            return None
        finally:
            killed.cancel()
            doing.cancel()
            await asyncio.gather(doing, killed, return_exceptions=True)


@cache
def _settings(root: Path, warm: bool) -> Settings:
    """Made once for all lives of a daemon: to look for each in files and in the environment takes time."""
    return Settings(
        data_dir=root / "d", run_dir=root / "r", cache_dir=root / "c", max_sandboxes=5, template_snapshots=warm
    )


@asynccontextmanager
async def daemon(
    host: Host, *, kill_at: int = -1, kill_takeover_at: int = -1, warm: bool = False
) -> AsyncIterator[Daemon]:
    """Start one, which takes over what the last one left; it is killed before it takes step number `kill_takeover_at`
    in that, or step number `kill_at` after it. `warm`: with template snapshots, and a pool that the test fills."""
    host.killed, host.kill_at, host.steps = asyncio.Event(), kill_takeover_at, []
    settings = _settings(host.root, warm)
    home = NodeHome(settings)
    for directory in (home.sandboxes, home.images, home.grants):
        directory.mkdir(parents=True, exist_ok=True)
    image = host.root / "image"
    image.write_bytes(b"i")
    journal = Journal(home.directory / "node.db")
    await journal.open()
    egress_log = EgressLog(home.directory / "egress.db")
    await egress_log.open()
    records = SteppingRecords(home.sandboxes, home.grants)
    broker = cast(Broker, PaperBroker())
    store = cast(SteppingStore, await SteppingStore.open(home.snapshots, disk=host.disk, boot=host.boot))
    records.host = store.host = host
    registry = Registry()
    activity = Activity(journal)
    tracing = Tracing(registry, activity, lambda id: None)
    desk = Desk(registry)
    recipe = Recipe(name="t", user="user", workdir="/", resources=RESOURCES)
    built = BuiltImage(image, "hash", recipe)
    info = TemplateInfo(name="t", description="", resources=RESOURCES, image="hash")
    gateway = LlmGateway(journal.append)
    parts = Parts(
        settings=settings,
        home=home,
        registry=registry,
        records=records,
        journal=journal,
        activity=activity,
        tracing=tracing,
        runtime=PaperRuntime(host),
        slots=PaperSlots(host),
        images=cast(
            Any,
            SimpleNamespace(
                resolve=lambda name: built,
                path=lambda hash: image,
                templates=lambda: [info],
                cache=Cache(host.root / "c"),
                made=MadeTemplates(home.directory / "templates", Cache(host.root / "c")),
            ),
        ),
        desk=desk,
        identities=IdentityDoor(desk.ask),
        gateway=gateway,
        budgets=Budgets(home.directory / "llm-budgets.json", gateway),
        fence=cast(Fence, PaperFence()),
        broker=broker,
        secrets=NodeSecrets(records, broker),
        egress=Egress(registry, journal, egress_log, activity, tracing),
        egress_log=egress_log,
        guests=cast(GuestClient, PaperGuests(host)),
        disks=cast(GuestDisk, PaperDisks(host)),
        dialer=Dialer(registry.address),
        snapshots=Snapshots(store, registry, records, host.most_snapshot_bytes),
        pins=Pins(home.images),
    )
    sandboxes = Sandboxes(parts, boots_at_once=2)
    try:
        node = Daemon(host, parts, sandboxes)
        await node.unless_killed(Takeover(parts, sandboxes).run())
        if not host.killed.is_set():
            await sandboxes.templates.load()
        host.steps, host.kill_at = [], kill_at
        yield node
    finally:
        left = [*sandboxes.states.working, *(entry.watch for entry in registry if entry.watch is not None)]
        left += [*sandboxes.templates._making.values(), *sandboxes.pool._deaths.values(), *sandboxes.pool._ends]
        left += [*sandboxes.kernels._deaths.values(), *sandboxes.kernels._ends]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await store.close()
        await egress_log.close()
        await journal.close()
        records.close()


async def after(memory: Path, work: Callable[[Daemon], Awaitable[object]]) -> Kept:
    """A host whose daemon has done this work, and is gone."""
    host = Host(memory / "host")
    async with daemon(host) as node:
        await work(node)
    return Kept(host)
