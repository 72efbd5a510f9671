"""Snapshots of a sandbox, and going back to them. What there is, the node knows; whose it is, stands in each record."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from hutch.control.context import Context, not_running
from hutch.control.found import find_snapshot
from hutch.control.guests import Guests
from hutch.control.moves import Moves
from hutch.control.rewinds import Rewinds
from hutch.control.supervisor import Supervisor
from hutch.control.turns import checkpoint_of
from hutch.control.types import Download, Idempotency, Stream
from hutch.control.views import snapshot_view
from hutch.errors import Conflict, IdempotencyConflict, NodeUnavailable, SnapshotNotFound
from hutch.model import (
    Diff,
    DiffRequest,
    Rollback,
    Snapshot,
    SnapshotKind,
    SnapshotReason,
    SnapshotRecord,
    SnapshotRequest,
    SnapshotUsage,
    new_id,
)
from hutch.model.lineage import ancestors, walk
from hutch.store.sandboxes import SandboxRow


class Snapshots:
    """Raises `SandboxNotFound`, `SnapshotNotFound`, `NodeUnavailable`, beside what stands at the methods."""

    def __init__(
        self, context: Context, guests: Guests, moves: Moves, rewinds: Rewinds, supervisor: Supervisor
    ) -> None:
        self._context = context
        self._guests = guests
        self._moves = moves
        self._rewinds = rewinds
        self._supervisor = supervisor

    async def take(
        self,
        sandbox_id: str,
        org: str,
        *,
        by: str | None = None,
        name: str | None = None,
        reason: SnapshotReason = SnapshotReason.MANUAL,
        kind: SnapshotKind = SnapshotKind.FULL,
        disk: bool = False,
        idempotency: Idempotency | None = None,
    ) -> Snapshot:
        """A new one; a sandbox that runs goes on. `disk`: with its disk beside memory. For the same key it is the same
        one, also when the sandbox is gone by then. Raises `SandboxNotRunning`, `FreezeFailed`, `DiskFull`,
        `IdempotencyConflict`, and `Conflict` for the disk of one that is paused without."""
        await self._guests.row(sandbox_id, org)
        id = _id_of(reason, idempotency) if idempotency is not None else new_id("snp")
        if idempotency is not None:
            with suppress(SnapshotNotFound):
                return _same(await find_snapshot(self._context, id, org), sandbox_id, name)
        wish = SnapshotRequest(snapshot=id, name=name, created_by=by, reason=reason, kind=kind, disk=disk)
        return _same(await self._moves.snapshot(sandbox_id, wish), sandbox_id, name)

    async def get(self, snapshot_id: str, org: str) -> Snapshot:
        """One."""
        return snapshot_view(await find_snapshot(self._context, snapshot_id, org))

    async def delete(self, snapshot_id: str, org: str) -> None:
        """Take it away; its children become its parent's. Raises `Conflict` while a paused sandbox stands on it."""
        found = await find_snapshot(self._context, snapshot_id, org)
        for node in self._context.fleet.nodes():
            await node.delete_snapshot(found.id)

    async def all(self, org: str) -> list[Snapshot]:
        """Those of an organisation, also of sandboxes that are gone, oldest first."""
        found = [each for node in self._context.fleet.nodes() for each in await node.snapshots(org=org)]
        return [snapshot_view(each) for each in sorted(found, key=lambda each: each.created_at)]

    async def usage(self, org: str) -> SnapshotUsage:
        """What they take."""
        each = [await node.snapshot_usage(org) for node in self._context.fleet.nodes()]
        return SnapshotUsage(
            snapshots=sum(one.snapshots for one in each),
            logical_bytes=sum(one.logical_bytes for one in each),
            stored_bytes=sum(one.stored_bytes for one in each),
            pending_bytes=sum(one.pending_bytes for one in each),
            limit_bytes=_sum(one.limit_bytes for one in each),
        )

    async def export(self, snapshot_id: str, org: str) -> Download:
        """One as a sealed archive. Raises `SnapshotCorrupt`, `DiskFull`."""
        found = await find_snapshot(self._context, snapshot_id, org)
        for node in self._context.fleet.nodes():
            if await node.find_snapshot(found.id) is not None:
                return Download(Stream(await node.export_snapshot(found.id)), size=None)
        raise SnapshotNotFound(f"no snapshot {found.id}")

    async def take_in(self, archive: AsyncIterator[bytes], org: str, by: str | None = None) -> Snapshot:
        """What was exported here, or where the same key seals, as a new snapshot. Raises `InvalidArchive`,
        `PayloadTooLarge`, `DiskFull`, `SnapshotIncompatible`."""
        nodes = self._context.fleet.nodes()
        if not nodes:
            raise NodeUnavailable("there is no node")
        return snapshot_view(await nodes[0].import_snapshot(archive, org, by))

    async def of(self, sandbox_id: str, org: str) -> list[Snapshot]:
        """Those of one sandbox, oldest first."""
        row = await self._guests.row(sandbox_id, org)
        return [snapshot_view(found) for found in await self._context.node_of(row).snapshots(row.id)]

    async def timeline(self, sandbox_id: str, org: str) -> list[tuple[int, Snapshot]]:
        """Those of the sandbox, and those that it comes from, each after its parent, with its depth in the tree."""
        row = await self._guests.row(sandbox_id, org)
        return [(depth, snapshot_view(found)) for depth, found in walk(await self._tree(row))]

    async def rollback(self, sandbox_id: str, wish: Rollback, org: str, by: str | None = None) -> None:
        """Back to one of the sandbox's timeline, under the same id, with its task. Raises `Conflict` for another's, and
        for one at which the task that goes on had not begun, `SandboxNotRunning`, and what keeps it from being thawed:
        then the sandbox is as it was."""
        row = await self._guests.row(sandbox_id, org)
        store = self._context.store
        task = (await store.tasks.of_sandboxes([row.id])).get(row.id)
        place = None
        if wish.turn is not None:
            tree = {found.id: found for found in await self._tree(row)}
            snapshot_id = await checkpoint_of(self._context, row, task, wish.turn, tree)
            place = await store.bookmarks.get(snapshot_id)
        else:
            target = await self.check_of(row, wish.snapshot or "")
            snapshot_id = target.id
            if target.kind is SnapshotKind.FULL:  # in a disk there is no agent to go on
                place = await store.bookmarks.get(snapshot_id)
                if task is not None and place is not None and row.keep and await self._rewinds.stays(task, place):
                    place = None
        if task is not None and place is not None and place.task_id == task.id:
            if wish.fallback is not None:
                raise Conflict(
                    f"{task.id} goes back to {snapshot_id} with {row.id}, and on a disk there is no agent to go on",
                    hint="Leave `fallback` out, or fork the snapshot with it.",
                )
            arrival = await self._rewinds.begin(row, place, by)
            await self._supervisor.restart(task.id)
            return await asyncio.shield(arrival)
        if task is not None and task.step != "done":
            # Its events go on from an output that there would not be.
            raise Conflict(
                f"{task.id} goes on in {row.id}, and had not begun at {snapshot_id}",
                hint="Cancel the task first, or fork the snapshot into a new sandbox.",
            )
        await self._moves.rollback(row.id, snapshot_id, by, fallback=wish.fallback)

    async def diff(self, sandbox_id: str, request: DiffRequest, org: str) -> Diff:
        """What differs between two of its timeline; where there is no second, up to now. Raises `Conflict` for
        another's, `SandboxNotRunning`, and what keeps a snapshot from being looked into."""
        row = await self._guests.row(sandbox_id, org)
        for id in (request.from_snapshot, request.to_snapshot):
            if id is not None:
                await self.check_of(row, id)
        if request.to_snapshot is None:
            row = await self._moves.settled(row.id)
            if row.state not in ("running", "paused"):
                raise not_running(row)
        return await self._context.node_of(row).diff(row.id, request)

    async def check_no_task(self, row: SandboxRow, hint: str) -> None:
        """Raise `Conflict` while a task goes on in it: its events go on from an output that there would not be."""
        task = (await self._context.store.tasks.of_sandboxes([row.id])).get(row.id)
        if task is not None and task.step != "done":
            raise Conflict(f"{task.id} goes on in {row.id}", hint=hint)

    async def check_of(self, row: SandboxRow, snapshot_id: str) -> SnapshotRecord:
        """The snapshot, if it is of the sandbox's timeline."""
        found = await find_snapshot(self._context, snapshot_id, row.org)
        if all(known.id != found.id for known in await self._tree(row)):
            raise Conflict(
                f"{found.id} is not of the timeline of {row.id}", hint="A new sandbox can be made `from` any snapshot."
            )
        return found

    async def _tree(self, row: SandboxRow) -> list[SnapshotRecord]:
        everything = {found.id: found for found in await self._context.node_of(row).snapshots(org=row.org)}
        own = {found.id: found for found in everything.values() if found.sandbox_id == row.id}
        if row.snapshot in everything:
            own[row.snapshot] = everything[row.snapshot]
        above = {found.id: found for id in own for found in ancestors(everything, id)}
        return list((own | above).values())


def _sum(limits: Iterable[int | None]) -> int | None:
    """None where one has no limit."""
    known = list(limits)
    return None if None in known else sum(each for each in known if each is not None)


def _id_of(reason: SnapshotReason, idempotency: Idempotency) -> str:
    """The id of what is taken with this key."""
    digest = hashlib.sha256(f"{reason}\0{idempotency.owner}\0{idempotency.key}".encode()).digest()
    return "snp_" + base64.b32encode(digest).decode().lower()[:22]


def _same(found: SnapshotRecord, sandbox_id: str, name: str | None) -> Snapshot:
    if (found.sandbox_id, found.name) != (sandbox_id, name):
        raise IdempotencyConflict("this Idempotency-Key was used for another request")
    return snapshot_view(found)
