"""`Control`: the facade that the API calls."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from hutch.blobs import FileBlobs
from hutch.control import networks
from hutch.control.audit import Audit
from hutch.control.builds import Builds
from hutch.control.code import Code
from hutch.control.context import Context, not_running
from hutch.control.create import Creator
from hutch.control.e2b_secrets import E2bSecrets
from hutch.control.exclusive import hold
from hutch.control.exec import Execs
from hutch.control.files import Files
from hutch.control.forks import Forks
from hutch.control.guests import Guests
from hutch.control.identities import Identities, issuer_of
from hutch.control.idle import Idle
from hutch.control.journal import Journal
from hutch.control.known import KnownGuests
from hutch.control.lifecycle import Lifecycle
from hutch.control.moves import Moves
from hutch.control.places import Places
from hutch.control.policies import Policies
from hutch.control.ports import Ports
from hutch.control.reconcile import Reconciler
from hutch.control.rewinds import Rewinds
from hutch.control.samples import Samples
from hutch.control.secret_grants import rules_of
from hutch.control.secrets import Secrets
from hutch.control.snapshots import Snapshots
from hutch.control.spending import Spending
from hutch.control.stdin_log import StdinLog
from hutch.control.supervisor import Supervisor
from hutch.control.sweeper import Sweeper
from hutch.control.tasks import Tasks
from hutch.control.templates import Templates
from hutch.control.timeouts import Timeouts
from hutch.control.types import MAX_PAGE, Also, Download, Idempotency, Page, Upload
from hutch.control.uploads import Uploader
from hutch.control.views import row_states, sandbox_view
from hutch.control.volumes import Volumes
from hutch.errors import InvalidRequest, NodeUnavailable
from hutch.fleet import Fleet, LocalFleet
from hutch.identity.issuer import Issuer
from hutch.model import (
    CreateSandbox,
    CreateSnapshot,
    Diff,
    DiffRequest,
    Fork,
    GuestFigures,
    NetworkPolicy,
    NodeInfo,
    NodeSandbox,
    Pause,
    Resume,
    Rollback,
    Sandbox,
    SandboxState,
    Snapshot,
    SnapshotKind,
    SnapshotUsage,
    TemplateInfo,
    UpdateSandbox,
)
from hutch.model.egress import EgressEntry
from hutch.model.headers import HeaderRule
from hutch.model.private import private_networks
from hutch.secrets import Keyring, Vault
from hutch.settings import Settings
from hutch.store import DEFAULT_ORG, Store
from hutch.store.pages import make_cursor
from hutch.store.sandboxes import LIVE, SandboxRow

_LIVE = tuple(state for state in SandboxState if not state.ended)
_DELETED = {"state": "cancelled", "error": "sandbox_deleted", "detail": "the sandbox was deleted by the caller"}


class Control:
    """Sandboxes and tasks, for one server process.

    Every method that takes an id raises the matching `NotFound` when the id is unknown *in that org*. Methods that
    give a stream are coroutines that check everything first and return the iterator after: errors come before the
    first byte of an answer.
    """

    store: Store
    """Open between `start` and `stop`; identity uses `store.keys`."""
    tasks: Tasks
    execs: Execs
    files: Files
    ports: Ports
    timeouts: Timeouts
    samples: Samples
    builds: Builds
    volumes: Volumes
    audit: Audit
    issuer: Issuer
    identities: Identities
    spending: Spending
    secrets: Secrets
    e2b_secrets: E2bSecrets
    policies: Policies

    def __init__(self, settings: Settings, fleet: Fleet | None = None) -> None:
        self._settings = settings
        self._fleet = fleet if fleet is not None else LocalFleet(settings)
        self._background: list[asyncio.Task[None]] = []
        self._opened = AsyncExitStack()

    async def start(self) -> None:
        """Open the database (migrating it), take over what an earlier process left, start the background work."""
        settings = self._settings
        settings.server_dir.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as opened:
            lock = await hold(settings.server_dir / "server.lock")
            opened.callback(os.close, lock)
            vault = await asyncio.to_thread(Vault.open_file, settings.server_dir / "master.key")
            keyring = await asyncio.to_thread(Keyring.open_file, settings.server_dir / "secrets.keys")
            self.store = await Store.open(settings.database)
            opened.push_async_callback(self.store.close)
            await self._fleet.start()
            opened.push_async_callback(self._fleet.stop)
            blobs, places = FileBlobs(settings.server_dir / "blobs"), Places(self.store)
            private = private_networks(settings.private_networks, settings.subnet_pool)
            self._assemble(Context(settings, self.store, self._fleet, vault, keyring, blobs, places, private))
            await self.secrets.finish_rekey()
            if self.store.database.sqlite:
                await self.store.tasks.break_leases()  # we have the lock: whoever held them is dead
            await self.volumes.start()
            await self._lifecycle.mounts.start()
            await self.builds.sweep()
            torn = await self._forks.left() if self.store.database.sqlite else []  # as with the leases
            self._opened = opened.pop_all()
        self._background = [
            asyncio.create_task(work)
            for work in (
                self._journal.follow(self._reconciler.ask),
                self._reconciler.watch(),
                self._sweeper.watch(),
                self._idle.watch(),
                self.timeouts.watch(),
                self.samples.watch(),
                self._supervisor.watch(),
                self.builds.watch(),
                self.identities.watch(),
                self.audit.watch(),
                self.stdin_log.watch(),
                self.identities.watch_age(),
                self._forks.undo(torn),
            )
        ]

    def _assemble(self, context: Context) -> None:
        node = self._fleet.nodes()[0]
        self._context = context
        self._lifecycle = Lifecycle(context)
        self.volumes = self._lifecycle.volumes
        self._journal = Journal(context, self._lifecycle, node)
        known = KnownGuests()
        self._moves = Moves(context, self._lifecycle, known)
        rewinds = Rewinds(context, self._moves)
        self._supervisor = Supervisor(context, self._lifecycle, self._moves, rewinds, self._journal)
        self._templates = Templates(context, self._journal)
        self._creator = Creator(context, self._lifecycle, self._supervisor, self._templates, known)
        self.spending, self.secrets = Spending(context), Secrets(context)
        self.e2b_secrets = E2bSecrets(context, self.secrets)
        self.policies = Policies(context)
        self._reconciler = Reconciler(
            context, self._lifecycle, self._moves, self._creator, self.spending, self.secrets, self.policies, node
        )
        self._sweeper = Sweeper(context, self._lifecycle)
        self._uploader = Uploader(context)
        self._guests = Guests(context, self._moves, known)
        self._idle = Idle(context, self._moves, known)
        self._snapshots = Snapshots(context, self._guests, self._moves, rewinds, self._supervisor)
        self._forks = Forks(context, self._guests, self._snapshots, self._creator, self._lifecycle)
        self.tasks = Tasks(context, self._snapshots)
        self.audit = Audit(context)
        self.issuer = issuer_of(context)
        self.identities = Identities(context, self.issuer, node)
        self.ports = Ports(context, self._guests)
        self.samples = Samples(context, self._guests)
        self.timeouts = Timeouts(context, self._lifecycle, self._moves)
        self.stdin_log = StdinLog(context.store.audit)
        self.execs = Execs(self._guests, self.stdin_log)
        self.code = Code(self._guests)
        self.files = Files(self._guests)
        self.builds = Builds(context, self._lifecycle, self._creator, self._guests, self.files, self._templates)

    async def stop(self) -> None:
        """Stop the background work; sandboxes and agents go on. A second call does nothing."""
        opened, self._opened = self._opened, AsyncExitStack()
        background, self._background = self._background, []
        if not background:
            return
        for work in background:
            work.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        with suppress(Exception):  # that something was sent is recorded already
            await self.stdin_log.tell()
        await self.builds.close()
        await self.identities.close()
        await self._supervisor.close()
        await self._creator.close()
        await self._moves.close()
        await self._lifecycle.mounts.close()
        await self.volumes.close()
        await opened.aclose()

    # ---- sandboxes ----

    async def create(
        self,
        request: CreateSandbox,
        *,
        by: str | None = None,
        org: str = DEFAULT_ORG,
        idempotency: Idempotency | None = None,
        also: Also | None = None,
        rules: Sequence[HeaderRule] = (),
    ) -> Sandbox:
        """A plain sandbox: returns when it is `running`. With an agent: returns at once, with `task` set. `also` is
        written with it, or neither is. `by`: the key that asks for it. `rules`: headers that its requests get."""
        return await self._creator.create(request, org, by, idempotency, also, rules)

    async def get(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sandbox:
        """The sandbox, with fresh figures of use."""
        row = await self._guests.row(sandbox_id, org)
        facts = None
        if row.state == "running":
            try:
                facts = await self._context.node_of(row).sandbox(row.id)
            except NodeUnavailable:
                facts = None  # what the database knows will do
        tasks = await self.store.tasks.of_sandboxes([row.id])
        return sandbox_view(row, tasks.get(row.id), facts)

    async def list(
        self,
        *,
        org: str = DEFAULT_ORG,
        states: Sequence[SandboxState] = (),
        labels: Mapping[str, str] | None = None,
        include_ended: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Sandbox]:
        """Newest first. Ended ones only with `include_ended` or where `states` names them. `InvalidRequest` on a bad
        cursor."""
        wanted = states or (() if include_ended else _LIVE)
        limit = max(1, min(limit, MAX_PAGE))
        stored, hibernated = row_states(wanted)
        rows = await self.store.sandboxes.page(org, stored, labels, limit + 1, cursor, hibernated)
        more = len(rows) > limit
        rows = rows[:limit]
        tasks = await self.store.tasks.of_sandboxes([row.id for row in rows])
        following = make_cursor(rows[-1].created_at, rows[-1].id) if more else None
        facts = await self._facts(rows)
        return Page([sandbox_view(row, tasks.get(row.id), facts.get(row.id)) for row in rows], following)

    async def _facts(self, rows: Sequence[SandboxRow]) -> dict[str, NodeSandbox]:
        """What the nodes of those that run say of them, by id: one call a node."""
        found: dict[str, NodeSandbox] = {}
        for name in {row.node for row in rows if row.state == "running" and row.node is not None}:
            with suppress(NodeUnavailable):  # what the database knows will do
                found |= {each.id: each for each in await self._context.fleet.node(name).sandboxes()}
        return found

    async def delete(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Destroy it, in any state; its task, if one runs, is cancelled. No error when it has ended already."""
        row = await self._guests.row(sandbox_id, org)
        await self._lifecycle.destroy(row.id, "deleted by the caller", _DELETED)

    async def update(self, sandbox_id: str, request: UpdateSandbox, *, org: str = DEFAULT_ORG) -> Sandbox:
        """Change what the request names. That counts as a use: it is not paused at once. `SandboxNotRunning` when it
        has ended."""
        row = await self._guests.row(sandbox_id, org)
        if row.state not in LIVE:
            raise not_running(row)
        self._guests.touch(row.id)
        async with self.store.database.write() as connection:
            values = request.model_dump(exclude_unset=True)
            await self.store.sandboxes.note(connection, row.id, last_active=time.time(), **values)
        return await self.get(sandbox_id, org=org)

    async def settled(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sandbox:
        """`get`, once no pause, resume or rollback of it is under way."""
        await self._moves.settled((await self._guests.row(sandbox_id, org)).id)
        return await self.get(sandbox_id, org=org)

    async def set_network(
        self,
        sandbox_id: str,
        policy: NetworkPolicy,
        *,
        org: str = DEFAULT_ORG,
        rules: Sequence[HeaderRule] | None = None,
    ) -> Sandbox:
        """What it may reach from now on; a paused one, when it is resumed. `rules`: the headers that its requests get
        (None: as before). `SandboxNotRunning` when it has ended, `InvalidPolicy` for a policy that is not there."""
        row = await self._moves.settled((await self._guests.row(sandbox_id, org)).id)
        if row.state not in ("running", "paused"):
            raise not_running(row)
        await networks.change(self._context, row, policy, rules)
        return await self.get(sandbox_id, org=org)

    async def header_rules(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sequence[HeaderRule]:
        """Headers that its requests get, with references to secrets."""
        return rules_of(self._context, await self._guests.row(sandbox_id, org))

    async def egress(
        self, sandbox_id: str, *, after: int = 0, limit: int = 100, wait: float = 0.0, org: str = DEFAULT_ORG
    ) -> Sequence[EgressEntry]:
        """What it has reached and was refused, the oldest behind `after` first; also of one that has ended."""
        row = await self._guests.row(sandbox_id, org)
        return await self._context.node_of(row).egress(row.id, after, limit, wait)

    async def pause(
        self, sandbox_id: str, request: Pause | None = None, *, by: str | None = None, org: str = DEFAULT_ORG
    ) -> Sandbox:
        """Save it, and take it off the host. As it is when it is paused or hibernated already, except that one that is
        paused is woken where only the disk is to be saved; what uses its guest wakes it again. `by`: who asks.
        `SandboxNotRunning` where there is nothing to pause, `Conflict` where only the
        disk is to be saved of one in which a task goes on."""
        row = await self._guests.row(sandbox_id, org)
        kind = request.mode if request is not None else SnapshotKind.FULL
        fallback = request.fallback if request is not None else None
        if kind is SnapshotKind.DISK or fallback is not None:
            await self._snapshots.check_no_task(row, "Cancel the task first, or pause the sandbox with its memory.")
        await self._moves.pause(row.id, by, kind=kind, fallback=fallback)
        return await self.get(sandbox_id, org=org)

    async def resume(self, sandbox_id: str, request: Resume | None = None, *, org: str = DEFAULT_ORG) -> Sandbox:
        """Bring a paused sandbox back; as it is when it runs. `Conflict` where a task goes on in one that is to fall
        back to its disk."""
        row = await self._guests.row(sandbox_id, org)
        fallback = request.fallback if request is not None else None
        if fallback is not None:
            await self._snapshots.check_no_task(row, "Cancel the task first: on a disk there is no agent to go on.")
        await self._moves.awake(row.id, fallback)
        return await self.get(sandbox_id, org=org)

    async def figures(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> GuestFigures | None:
        """What it uses just now, by its guest's own account; None when it does not run."""
        row = await self._guests.row(sandbox_id, org)
        if row.state != "running":
            return None
        async with self._guests.of(sandbox_id, org, wake=False) as guest:
            return await guest.figures()

    async def environment(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> dict[str, str] | None:
        """What all its commands get, by its guest's own account; None when it does not run."""
        row = await self._guests.row(sandbox_id, org)
        if row.state != "running":
            return None
        async with self._guests.of(sandbox_id, org, wake=False) as guest:
            return await guest.environment()

    async def set_environment(self, sandbox_id: str, env: Mapping[str, str], *, org: str = DEFAULT_ORG) -> None:
        """What all its commands get from now on, beside what its template says."""
        async with self._guests.of(sandbox_id, org) as guest:
            await guest.set_environment(env)

    # ---- snapshots ----

    async def take_snapshot(
        self,
        sandbox_id: str,
        request: CreateSnapshot,
        *,
        by: str | None = None,
        org: str = DEFAULT_ORG,
        idempotency: Idempotency | None = None,
    ) -> Snapshot:
        """A snapshot of a running sandbox, which goes on, or of a paused one."""
        disk = request.fallback is not None
        if request.mode is SnapshotKind.DISK and disk:
            raise InvalidRequest("`fallback` goes with a snapshot that has memory", field="fallback")
        return await self._snapshots.take(
            sandbox_id, org, by=by, name=request.name, kind=request.mode, disk=disk, idempotency=idempotency
        )

    async def snapshots(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sequence[Snapshot]:
        """Those of one sandbox, oldest first."""
        return await self._snapshots.of(sandbox_id, org)

    async def snapshot(self, snapshot_id: str, *, org: str = DEFAULT_ORG) -> Snapshot:
        """One snapshot. `SnapshotNotFound`."""
        return await self._snapshots.get(snapshot_id, org)

    async def all_snapshots(self, *, org: str = DEFAULT_ORG) -> Sequence[Snapshot]:
        """All of the organisation's, also of sandboxes that are gone, oldest first."""
        return await self._snapshots.all(org)

    async def snapshot_usage(self, *, org: str = DEFAULT_ORG) -> SnapshotUsage:
        """What the organisation's snapshots take."""
        return await self._snapshots.usage(org)

    async def export_snapshot(self, snapshot_id: str, *, org: str = DEFAULT_ORG) -> Download:
        """A snapshot as one file. `SnapshotNotFound`, `SnapshotCorrupt`, `DiskFull`."""
        return await self._snapshots.export(snapshot_id, org)

    async def import_snapshot(
        self, archive: AsyncIterator[bytes], *, by: str | None = None, org: str = DEFAULT_ORG
    ) -> Snapshot:
        """A new snapshot from what was exported. `InvalidArchive`, `PayloadTooLarge`, `DiskFull`,
        `SnapshotIncompatible`."""
        return await self._snapshots.take_in(archive, org, by)

    async def delete_snapshot(self, snapshot_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Take it away. `Conflict` while a paused sandbox stands on it."""
        await self._snapshots.delete(snapshot_id, org)

    async def timeline(self, sandbox_id: str, *, org: str = DEFAULT_ORG) -> Sequence[tuple[int, Snapshot]]:
        """The tree of snapshots that the sandbox is in: each after its parent, with its depth."""
        return await self._snapshots.timeline(sandbox_id, org)

    async def diff(self, sandbox_id: str, request: DiffRequest, *, org: str = DEFAULT_ORG) -> Diff:
        """What differs between two points of its timeline, its image, or what it is now. Wakes nobody."""
        return await self._snapshots.diff(sandbox_id, request, org)

    async def rollback(
        self, sandbox_id: str, request: Rollback, *, by: str | None = None, org: str = DEFAULT_ORG
    ) -> Sandbox:
        """Back to a snapshot or turn under the same id, after a snapshot of what it is now; its task goes on from
        there. What fails leaves both as they were."""
        await self._snapshots.rollback(sandbox_id, request, org, by)
        return await self.get(sandbox_id, org=org)

    async def fork(
        self,
        sandbox_id: str,
        request: Fork,
        *,
        by: str | None = None,
        org: str = DEFAULT_ORG,
        idempotency: Idempotency | None = None,
        also: Also | None = None,
        rules: Sequence[HeaderRule] = (),
    ) -> Sequence[Sandbox]:
        """New sandboxes from a snapshot, or from the sandbox as it is now: all that were asked for, running, or none
        and the error. `also` and `rules` are as for `create`, for each."""
        return await self._forks.fork(sandbox_id, request, org, by, idempotency, also, rules)

    # ---- the node, and what is stored beside ----

    async def upload(self, chunks: AsyncIterator[bytes], *, org: str = DEFAULT_ORG) -> Upload:
        """Store a tar stream for a later `inputs`."""
        return await self._uploader.store(chunks, org)

    async def templates(self, *, org: str = DEFAULT_ORG) -> Sequence[TemplateInfo]:
        """All that the organisation may use, as the node has them now."""
        return await self._templates.now(org)

    async def has_template(self, name: str, *, org: str = DEFAULT_ORG) -> bool:
        """Whether a template of Hutch's own has this name, as of a few seconds ago."""
        known = await self._templates.with_name(name, org)
        return any(each.name == name and each.org is None for each in known)

    async def build_template(
        self, name: str, *, force: bool = False, org: str = DEFAULT_ORG
    ) -> AsyncIterator[dict[str, Any]]:
        """Build messages as in the node's API: log, progress, done, error."""
        return await self._templates.build(name, force, org)

    async def node_info(self) -> NodeInfo:
        """Health and size of the node. `NodeUnavailable` when it does not answer."""
        return await self._fleet.nodes()[0].info()
