"""The moves of a sandbox that has memory to lose: pause, resume, rollback.

    running ──► pausing or hibernating ──► paused ──► resuming ──► running
       └─────────────────┬────────────────────┘
             rolling_back ──► running

The row says where it goes before the node is asked, and where it is after. Whoever finds a row in the middle (the
reconciler after a crash, a call that needs the sandbox) asks the node the same again, which is harmless, and writes
down what came of it. What the node refuses is settled by what the node says that the sandbox is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from hutch.control import networks, secret_grants
from hutch.control.arrivals import Arrivals
from hutch.control.context import Context, not_running
from hutch.control.known import KnownGuests
from hutch.control.lifecycle import Lifecycle
from hutch.errors import HutchError, NodeUnavailable, SandboxNotFound
from hutch.model import (
    NodeSandbox,
    PauseRequest,
    ResumeRequest,
    RollbackRequest,
    SnapshotKind,
    SnapshotReason,
    SnapshotRecord,
    SnapshotRequest,
    new_id,
)
from hutch.store.sandboxes import LIVE, MOVING, SandboxRow

log = structlog.get_logger("hutch.control")


class Moves:
    """One move of a sandbox at a time; those who want the same share it. A move goes on when its caller is gone."""

    def __init__(self, context: Context, lifecycle: Lifecycle, known: KnownGuests) -> None:
        self._context = context
        self._rows = context.store.sandboxes
        self._known = known
        self._arrivals = Arrivals(context, lifecycle)
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    async def pause(
        self,
        sandbox_id: str,
        by: str | None = None,
        unless: Callable[[], bool] | None = None,
        kind: SnapshotKind = SnapshotKind.FULL,
        fallback: str | None = None,
    ) -> SandboxRow:
        """Save it and take it off the host; nothing to do when it is paused. `unless` is asked at the last moment at
        which it can still be left running; `kind` is of the snapshot that it is to stand on: one that is paused with
        its memory is woken to be hibernated, and to have its disk saved apart where `fallback` wants that; which is as
        for `awake`. Raises `SandboxNotRunning`, `NodeUnavailable` (then it is paused when the node is back), and what
        the node says (then it runs on)."""
        state = "hibernating" if kind is SnapshotKind.DISK else "pausing"
        while True:
            row = await self.settled(sandbox_id)
            if row.state == "paused":
                if not await self._will_do(row, kind, fallback):
                    await self.awake(row.id, fallback)
                elif await self._keeps(row, fallback):
                    return await self._living(row.id)
                continue
            if row.state != "running":
                raise not_running(row)
            chosen = {"fallback": fallback} if fallback is not None else {}
            move = self._set_out(row, state, by, unless, taking=new_id("snp"), **chosen)
            joined = self.under_way(row.id)  # another's may have no fallback, and may be called off
            if await self._run(row.id, state, move) and not joined:
                return await self._living(row.id)

    async def awake(self, sandbox_id: str, fallback: str | None = None) -> SandboxRow:
        """The running sandbox, resumed if it is paused; however many ask, it is woken once. `fallback`: what it falls
        back to from now on (`disk`); unset: as before. Raises
        `SandboxNotRunning`, `NodeUnavailable` (then it is resumed when the node is back), and what the node says
        (then it is paused as before)."""
        sharing = "resuming" if fallback is None else None  # another's may not fall back
        while True:
            row = await self.settled(sandbox_id, sharing)
            if row.state == "running":
                if await self._keeps(row, fallback):
                    return row
            elif row.state != "paused":
                raise not_running(row)
            else:
                chosen = {"fallback": fallback} if fallback is not None else {}
                await self._run(row.id, "resuming", self._set_out(row, "resuming", None, None, **chosen))

    async def rollback(
        self,
        sandbox_id: str,
        snapshot: str,
        by: str | None = None,
        safety: str | None = None,
        fallback: str | None = None,
    ) -> SandboxRow:
        """Back to a snapshot, under the same id; it runs then. The same `safety` twice is one rollback; `fallback` is
        as for `awake`, but nothing for one that takes a task back, whose agent is to go on. Raises
        `SandboxNotRunning`, `NodeUnavailable` (then it is rolled back when the node is back), and what the node says
        (then it is as it was)."""
        safety = safety or new_id("snp")
        while (row := await self.settled(sandbox_id)).state in ("running", "paused"):
            chosen = {"fallback": fallback} if fallback is not None else {}
            move = self._set_out(row, "rolling_back", by, None, snapshot=snapshot, taking=safety, **chosen)
            if await self._run(row.id, safety, move):
                return await self._living(row.id)
        raise not_running(row)

    async def snapshot(self, sandbox_id: str, wish: SnapshotRequest) -> SnapshotRecord:
        """A snapshot of a running sandbox, which goes on, or of a paused one. Raises `SandboxNotRunning`,
        `NodeUnavailable`, and what the node says."""
        taken: list[SnapshotRecord] = []
        while (row := await self.settled(sandbox_id)).state in ("running", "paused"):
            if await self._run(row.id, wish.snapshot, self._take(row, wish, taken)) and taken:
                return taken[0]
        raise not_running(row)

    async def settled(self, sandbox_id: str, sharing: str | None = None) -> SandboxRow:
        """The row when no move of it is under way; one that was left in the middle is brought to its end. Raises
        `NodeUnavailable` where that cannot be done now, and the error of a move of the kind `sharing`."""
        failure: BaseException | None = None
        while True:
            if (work := self._under_way.get(sandbox_id)) is not None:
                await asyncio.wait({work})
                failure = None if work.cancelled() else work.exception()
                if failure is not None and work.get_name() == sharing:
                    raise failure
            row = await self._get(sandbox_id)
            if row.state not in MOVING:
                return row
            if failure is not None:  # its end has to be waited for
                raise failure
            if sandbox_id not in self._under_way:
                self._begin(sandbox_id, row.state, self._carry_on(sandbox_id))

    async def _will_do(self, row: SandboxRow, kind: SnapshotKind, fallback: str | None) -> bool:
        """Whether what a paused one stands on is what is wanted: a disk does for memory, too, as there is none any
        more."""
        if row.hibernated:
            return True
        if kind is SnapshotKind.DISK:
            return False
        if fallback is None or row.snapshot is None:
            return True
        found = await self._context.node_of(row).find_snapshot(row.snapshot)
        return found is None or found.disk

    async def _keeps(self, row: SandboxRow, fallback: str | None) -> bool:
        """Have the row say what it falls back to from now on. False when it has changed."""
        if fallback is None or row.fallback == fallback:
            return True
        return await self._rows.change(row.id, row.version, fallback=fallback)

    def under_way(self, sandbox_id: str) -> bool:
        """Whether this process is moving it."""
        return sandbox_id in self._under_way

    async def adopt(self, row: SandboxRow, facts: NodeSandbox) -> None:
        """Have the row say what the node says, unless it has changed since it was read: where the two differ and
        nothing is under way, a power cut has taken the last commits of one of them."""
        if not self.under_way(row.id):
            self._known.forget(row.id)
            await self._arrivals.write(row, facts)

    async def _learn_token(self, sandbox_id: str) -> None:
        """Its guest has another token since a snapshot of it was taken; the old one is good for some seconds more. What
        is not learnt here (the node does not answer), the reconciler finds."""
        with suppress(NodeUnavailable):
            while (row := await self._get(sandbox_id)).state == "running":
                facts = await self._context.node_of(row).sandbox(row.id)
                if facts is None or facts.state != "running" or facts.guest_token == row.guest_token:
                    return
                if await self._rows.change(row.id, row.version, guest_token=facts.guest_token):
                    return self._known.forget(row.id)

    async def close(self) -> None:
        """Leave the moves that go on: the next process finishes them."""
        work = list(self._under_way.values())
        for move in work:
            move.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    async def _run(self, sandbox_id: str, kind: str, move: Coroutine[Any, Any, bool]) -> bool:
        """Make the move, or wait for the one that is under way. True, or its error, when it was of this kind and was
        made; False when the row has to be looked at again."""
        work = self._under_way.get(sandbox_id)
        if work is None:
            work = self._begin(sandbox_id, kind, move)
        else:
            move.close()
        if work.get_name() != kind:
            await asyncio.wait({work})
            return False
        return await asyncio.shield(work)

    def _begin(self, sandbox_id: str, kind: str, move: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        work = self._under_way[sandbox_id] = asyncio.create_task(move, name=kind)
        work.add_done_callback(lambda done: self._ended(sandbox_id, done))
        return work

    def _ended(self, sandbox_id: str, work: asyncio.Task[bool]) -> None:
        self._under_way.pop(sandbox_id, None)
        if not work.cancelled() and (error := work.exception()) is not None:
            log.warning("move failed", sandbox=sandbox_id, move=work.get_name(), error=str(error))

    async def _set_out(
        self,
        row: SandboxRow,
        state: str,
        by: str | None = None,
        unless: Callable[[], bool] | None = None,
        **values: str,
    ) -> bool:
        """Write down where it goes, and go. False when the row has changed."""
        if not await self._rows.change(row.id, row.version, state=state, **values):
            return False
        self._known.forget(row.id)  # from here on, whoever wants the guest reads the row, and waits for us
        if unless is not None and unless():
            await self._rows.change(row.id, row.version + 1, state=row.state, taking=None)
            return True
        return await self._carry_on(row.id, by)

    async def _carry_on(self, sandbox_id: str, by: str | None = None) -> bool:
        """Bring what the row says to its end. Raises what the node says; the row is settled then, unless it is
        `NodeUnavailable`."""
        row = await self._get(sandbox_id)
        try:
            facts = await self._ask(row, by)
        except NodeUnavailable:
            raise
        except HutchError as error:
            await self._arrivals.settle(row)
            if (row := await self._get(sandbox_id)).state not in LIVE:
                raise not_running(row) from error
            raise
        if facts is not None:
            await self._arrivals.write(row, facts)
        return True

    async def _take(self, row: SandboxRow, wish: SnapshotRequest, taken: list[SnapshotRecord]) -> bool:
        async with self._context.places.kept(row.id, wish.snapshot, wish.reason):
            found = await self._context.node_of(row).snapshot(row.id, wish)
        await self._learn_token(row.id)
        taken.append(found)
        return True

    async def _ask(self, row: SandboxRow, by: str | None) -> NodeSandbox | None:
        """The node, for what the row says. Asking twice is asking once."""
        node, places, taking = self._context.node_of(row), self._context.places, row.taking or ""
        if row.state in ("pausing", "hibernating"):  # it will outlive a power cut, and so must what knows of it
            await self._context.store.database.make_durable()
        if row.sealed_secrets is not None and row.state in ("resuming", "rolling_back"):
            await secret_grants.tell(self._context, row)  # its guest is told of them when it is thawed
        if row.state in ("resuming", "rolling_back") and await networks.behind(self._context, row):
            await networks.tell(self._context, row.id)
        match row.state:
            case "pausing":
                async with places.kept(row.id, taking, SnapshotReason.PAUSE):
                    disk = row.fallback == "disk"
                    return await node.pause(row.id, PauseRequest(snapshot=taking, created_by=by, disk=disk))
            case "hibernating":
                wanted = PauseRequest(snapshot=taking, kind=SnapshotKind.DISK, created_by=by)
                return await node.pause(row.id, wanted)
            case "resuming":
                return await node.resume(row.id, ResumeRequest(fallback=row.fallback == "disk"))
            case "rolling_back":
                task = (await self._context.store.tasks.of_sandboxes([row.id])).get(row.id)
                disk = row.fallback == "disk" and (task is None or task.step == "done")
                wish = RollbackRequest(snapshot=row.snapshot or "", safety=taking, created_by=by, fallback=disk)
                async with places.kept(row.id, taking, SnapshotReason.SAFETY):
                    return await node.rollback(row.id, wish)
            case _:
                return None

    async def _living(self, sandbox_id: str) -> SandboxRow:
        row = await self._get(sandbox_id)
        if row.state not in LIVE:
            raise not_running(row)
        return row

    async def _get(self, sandbox_id: str) -> SandboxRow:
        row = await self._rows.get(sandbox_id)
        if row is None:
            raise SandboxNotFound(f"no sandbox {sandbox_id}")
        return row
