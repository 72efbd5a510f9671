"""The daemon put together: parts, take-over, sockets, and an orderly stop that leaves the sandboxes running."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sqlite3
from collections.abc import AsyncIterator
from importlib.metadata import version

import structlog
from aiohttp import web

from hutch.collecting import leave_out_what_is_loaded
from hutch.descriptors import raise_limit
from hutch.egress.brokering import Broker
from hutch.egress.fencing import Fence
from hutch.egress.identity import IdentityDoor
from hutch.egress.llm.gateway import LlmGateway
from hutch.errors import HutchError
from hutch.images.catalog import ImageStore
from hutch.model import NodeInfo
from hutch.network.base import Services
from hutch.network.ended import EndLog
from hutch.network.nflog import PacketLog, group_of
from hutch.network.resolver import host_resolver
from hutch.network.slots import LinuxSlotPool
from hutch.node.activity import Activity
from hutch.node.app import NodeApi
from hutch.node.asking import Desk
from hutch.node.budgets import Budgets
from hutch.node.dialing import Dialer
from hutch.node.egress import Egress
from hutch.node.egress_log import EgressLog
from hutch.node.entry import Registry
from hutch.node.guest import GuestClient
from hutch.node.guest_disk import GuestDisk
from hutch.node.home import NodeHome, StartError, disk_free
from hutch.node.journal import Journal
from hutch.node.parts import Parts
from hutch.node.pins import Pins
from hutch.node.records import RecordStore
from hutch.node.sandboxes import Sandboxes
from hutch.node.secrets import NodeSecrets
from hutch.node.snapshots import Snapshots
from hutch.node.sockets import listen
from hutch.node.sweep import Takeover
from hutch.node.tracing import Tracing
from hutch.runtime.base import Runtime
from hutch.runtime.gvisor import GvisorRuntime
from hutch.runtime.trace.events import Event
from hutch.runtime.trace.tracer import Tracer
from hutch.settings import Settings
from hutch.snapshots import SnapshotStore

log = structlog.get_logger("hutch.node")

STOP_AND_REMOVE = signal.SIGUSR1
"""Sent to a node: stop, and leave no sandbox running."""


class Daemon:
    """One node daemon. `run` serves until it is told to stop; `remove_all` is `hutch down` where no node runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = NodeHome(settings)
        self._instance = secrets.token_hex(8)
        self._parts: Parts
        self._sandboxes: Sandboxes
        self._packets: PacketLog
        self._ends: EndLog

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, which leave the sandboxes running, or `STOP_AND_REMOVE`, which does what
        `remove_all` does. Raises `StartError`."""
        raise_limit()  # each connection into a sandbox has two of them here
        told: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT, STOP_AND_REMOVE):
            asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, number)
        async with self._started():
            if await self._serve(told) is STOP_AND_REMOVE:
                await self._end_all()

    async def remove_all(self) -> None:
        """End every sandbox that runs, remove every trace of this node from the host but its directory: there, paused
        ones wait for the next start. Raises `StartError`."""
        async with self._started():
            await self._end_all()

    async def _end_all(self) -> None:
        registry = self._parts.registry
        ends = (self._sandboxes.ender.end(entry, "hutch was stopped") for entry in registry if not entry.paused)
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, BaseException):
                log.error("not removed", exc_info=error)

    @contextlib.asynccontextmanager
    async def _started(self) -> AsyncIterator[None]:
        """Everything but the sockets. In the end, when no sandbox is left, nothing of the node is left on the host."""
        self._home.open()
        try:
            await self._put_together()
            try:
                yield
            finally:  # also where its sockets cannot be made
                await self._take_apart()
        except (HutchError, sqlite3.Error) as error:
            raise StartError(str(error)) from error
        finally:
            self._home.close()

    async def _put_together(self) -> None:
        runtime = self._runtime()
        if problems := await runtime.check():
            raise StartError("; ".join(problems))
        journal = Journal(self._home.directory / "node.db")
        await journal.open()
        self._parts = await self._assemble(runtime, journal)
        self._sandboxes = Sandboxes(self._parts, boots_at_once=(os.cpu_count() or 1) + 1)
        self._packets = PacketLog(group_of(self._home.id), self._parts.egress.firewall)
        try:
            self._packets.start()
        except OSError as error:
            log.warning("what the firewall refuses is in no egress log", error=str(error))
        await Takeover(self._parts, self._sandboxes).run()
        self._ends = EndLog(self._parts.slots.network, self._parts.egress.ended, self._parts.egress.lost)
        try:
            self._ends.start()
        except OSError as error:
            log.warning("of connections past the fence the egress log has no bytes", error=str(error))
        await self._sandboxes.start()

    def _runtime(self) -> Runtime:
        state = self._home.directory / "runsc"
        state.mkdir(mode=0o700, exist_ok=True)
        try:
            tracer = Tracer(self._settings.trace, self._heard)
            return GvisorRuntime(self._settings.runsc, state, self._home.id, tracer=tracer)
        except ValueError as error:  # a path that is too long for runsc's sockets
            raise StartError(f"{error}; set HUTCH_DATA_DIR to a shorter one") from error

    def _heard(self, runtime_id: str, event: Event) -> None:
        self._parts.tracing.heard(runtime_id, event)

    async def _assemble(self, runtime: Runtime, journal: Journal) -> Parts:
        settings, registry = self._settings, Registry()
        gateway = LlmGateway(
            journal.append,
            base_urls={
                "anthropic": settings.anthropic_base_url,
                "openai": settings.openai_base_url,
                "google": settings.google_base_url,
            },
            endpoints=settings.llm_providers,
            prices_file=settings.prices_file,
            ledger=self._home.run_dir / "llm.ledger",
        )
        guests = GuestClient()
        records = RecordStore(self._home.sandboxes, self._home.grants)
        store = await self._open_store()
        await guests.start()
        egress_log = EgressLog(self._home.directory / "egress.db")
        await egress_log.open()
        activity = Activity(journal)
        tracing = Tracing(registry, activity, runtime.catch_up)
        egress = Egress(registry, journal, egress_log, activity, tracing)
        desk = Desk(registry)
        identities = IdentityDoor(desk.ask)
        slots, fence, broker = self._network(await gateway.start(), await identities.start(), egress, desk)
        return Parts(
            settings=settings,
            home=self._home,
            registry=registry,
            records=records,
            journal=journal,
            activity=activity,
            tracing=tracing,
            runtime=runtime,
            slots=slots,
            fence=fence,
            broker=broker,
            secrets=NodeSecrets(records, broker),
            egress=egress,
            egress_log=egress_log,
            images=ImageStore(settings),
            gateway=gateway,
            desk=desk,
            identities=identities,
            budgets=Budgets(self._home.directory / "llm-budgets.json", gateway),
            guests=guests,
            disks=GuestDisk(guests),
            dialer=Dialer(registry.address),
            snapshots=Snapshots(store, registry, records, settings.snapshot_bytes),
            pins=Pins(self._home.images),
        )

    def _network(
        self, llm_port: int, identity_port: int, egress: Egress, desk: Desk
    ) -> tuple[LinuxSlotPool, Fence, Broker]:
        """The slots, the fence and the broker: each needs another, and the fence's ports are known first."""
        settings = self._settings
        given, _, port = (settings.egress_resolver or "").partition(":")
        address = given or host_resolver(loopback=True)
        fence = Fence(
            self._home.id, (address, int(port or 53)) if address else None, settings.egress_floor, egress.told
        )
        broker = Broker(self._home.id, fence.uid, egress.told, desk.ask_for)
        fence.door = broker.door
        tcp, dns = fence.listen()
        services = Services(
            llm=llm_port,
            identity=identity_port,
            tcp=tcp,
            dns=dns,
            uid=fence.uid,
            broker=broker.uid,
            resolver=fence.resolver,
        )
        slots = LinuxSlotPool(
            self._home.id, settings.subnet_pool, settings.slots_ahead, services, settings.private_networks
        )
        fence.lead(slots)
        return slots, fence, broker

    async def _open_store(self) -> SnapshotStore:
        settings = self._settings
        try:
            return await SnapshotStore.open(
                self._home.snapshots,
                cache_bytes=settings.snapshot_cache,
                cpu_share=settings.snapshot_cpu_share,
                scrub_rate=settings.snapshot_scrub_mib * (1 << 20),
            )
        except (OSError, RuntimeError) as error:
            raise StartError(f"the snapshots in {self._home.snapshots} cannot be opened: {error}") from error

    async def _take_apart(self) -> None:
        parts = self._parts
        await self._sandboxes.stop()
        await parts.slots.stop()
        if parts.registry.alive() == 0:
            await parts.slots.remove_all()
        self._packets.stop()
        self._ends.stop()
        await parts.fence.stop()
        await parts.broker.stop()
        await parts.gateway.stop()
        await parts.identities.stop()
        await parts.guests.stop()
        await parts.snapshots.close()
        await parts.egress.stop()
        await parts.egress_log.close()
        await parts.activity.close()
        await parts.journal.close()
        parts.records.close()

    async def _serve(self, told: asyncio.Queue[signal.Signals]) -> signal.Signals:
        """Until told to stop; how."""
        settings, parts = self._settings, self._parts
        runner = web.AppRunner(
            NodeApi(parts, self._sandboxes, self._info).application(), access_log=None, shutdown_timeout=10.0
        )
        await runner.setup()
        await parts.dialer.start(listen(settings.dial_socket, settings.server_user), parts.slots.dialer)
        await web.SockSite(runner, listen(settings.node_socket, settings.server_user)).start()
        tidying = asyncio.create_task(self._sandboxes.tidy_forever())
        counting = asyncio.create_task(parts.egress.count_forever(parts.slots), name="refusals")
        leave_out_what_is_loaded()
        log.info("node ready", node=self._home.id, socket=str(settings.node_socket))
        how = await told.get()
        log.info("node stops", sandboxes=parts.registry.alive(), by=how.name)
        tidying.cancel()
        counting.cancel()
        parts.journal.wake()
        parts.egress_log.wake()
        parts.desk.wake()
        await runner.cleanup()
        await parts.dialer.stop()
        return how

    def _info(self) -> NodeInfo:
        return NodeInfo(
            node=self._home.id,
            instance=self._instance,
            version=version("hutch"),
            runtime=self._parts.runtime.name,
            trace=self._parts.runtime.trace,
            sandboxes=self._parts.registry.alive(),
            paused=self._parts.registry.paused(),
            slots_free=self._parts.slots.free,
            warm=self._sandboxes.pool.view(),
            warm_memory_limit=self._sandboxes.pool.limit,
            kernels_ahead=len(self._sandboxes.kernels),
            kernels_ahead_bytes=self._sandboxes.kernels.memory_bytes,
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_free_bytes=disk_free(self._home.directory),
        )
