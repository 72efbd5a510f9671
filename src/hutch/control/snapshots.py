"""Snapshots of a sandbox, and going back to them. What there is, the node knows; whose it is, stands in each record."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress

from hutch.control.context import Context
from hutch.control.found import find_snapshot
from hutch.control.guests import Guests
from hutch.control.moves import Moves
from hutch.control.rewinds import Rewinds
from hutch.control.supervisor import Supervisor
from hutch.control.turns import checkpoint_of
from hutch.control.types import Idempotency
from hutch.control.views import snapshot_view
from hutch.errors import Conflict, IdempotencyConflict, SnapshotNotFound
from hutch.model import Rollback, Snapshot, SnapshotKind, SnapshotReason, SnapshotRecord, SnapshotRequest, new_id
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
        idempotency: Idempotency | None = None,
    ) -> Snapshot:
        """A new one; a sandbox that runs goes on. For the same key it is the same one, also when the sandbox is gone by
        then. Raises `SandboxNotRunning`, `FreezeFailed`, `DiskFull`, `IdempotencyConflict`."""
        await self._guests.row(sandbox_id, org)
        id = _id_of(reason, idempotency) if idempotency is not None else new_id("snp")
        if idempotency is not None:
            with suppress(SnapshotNotFound):
                return _same(await find_snapshot(self._context, id, org), sandbox_id, name)
        wish = SnapshotRequest(snapshot=id, name=name, created_by=by, reason=reason)
        return _same(await self._moves.snapshot(sandbox_id, wish), sandbox_id, name)

    async def get(self, snapshot_id: str, org: str) -> Snapshot:
        """One."""
        return snapshot_view(await find_snapshot(self._context, snapshot_id, org))

    async def delete(self, snapshot_id: str, org: str) -> None:
        """Take it away; its children become its parent's. Raises `Conflict` while a paused sandbox stands on it."""
        found = await find_snapshot(self._context, snapshot_id, org)
        for node in self._context.fleet.nodes():
            await node.delete_snapshot(found.id)

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
        if task is not None and place is not None and place.task_id == task.id:
            arrival = await self._rewinds.begin(row, place, by)
            await self._supervisor.restart(task.id)
            return await asyncio.shield(arrival)
        if task is not None and task.step != "done":
            # Its events go on from an output that there would not be.
            raise Conflict(
                f"{task.id} goes on in {row.id}, and had not begun at {snapshot_id}",
                hint="Cancel the task first, or fork the snapshot into a new sandbox.",
            )
        await self._moves.rollback(row.id, snapshot_id, by)

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


def _id_of(reason: SnapshotReason, idempotency: Idempotency) -> str:
    """The id of what is taken with this key."""
    digest = hashlib.sha256(f"{reason}\0{idempotency.owner}\0{idempotency.key}".encode()).digest()
    return "snp_" + base64.b32encode(digest).decode().lower()[:22]


def _same(found: SnapshotRecord, sandbox_id: str, name: str | None) -> Snapshot:
    if (found.sandbox_id, found.name) != (sandbox_id, name):
        raise IdempotencyConflict("this Idempotency-Key was used for another request")
    return snapshot_view(found)
