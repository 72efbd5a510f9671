"""Makes intent (the database) and fact (the node) agree, both ways. Runs at start, whenever a node answers again, and
now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from contextlib import suppress

import structlog

from hutch.control import secret_grants
from hutch.control.context import Context
from hutch.control.create import Creator
from hutch.control.grants import llm_grant
from hutch.control.lifecycle import Lifecycle
from hutch.control.moves import Moves
from hutch.control.policies import Policies
from hutch.control.secrets import Secrets
from hutch.control.spending import Spending
from hutch.control.together import each
from hutch.errors import HutchError, NodeUnavailable
from hutch.fleet import Node
from hutch.model import NodeSandbox
from hutch.store.sandboxes import LIVE, MOVING, SandboxRow

log = structlog.get_logger("hutch.control")

_EVERY = 15.0
_PATIENCE = 20.0


class Reconciler:
    """For one node."""

    def __init__(
        self,
        context: Context,
        lifecycle: Lifecycle,
        moves: Moves,
        creator: Creator,
        spending: Spending,
        secrets: Secrets,
        policies: Policies,
        node: Node,
    ) -> None:
        self._context = context
        self._lifecycle = lifecycle
        self._moves = moves
        self._creator = creator
        self._spending = spending
        self._secrets = secrets
        self._policies = policies
        self._node = node
        self._instance: str | None = None
        self._asked = asyncio.Event()
        self._foreign: set[str] = set()

    def ask(self) -> None:
        """Have it done soon: a node answers again."""
        self._asked.set()

    async def watch(self) -> None:
        """Reconcile when asked, and now and then, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self.run()
            except NodeUnavailable:
                continue  # the journal's reader asks again when it is back
            except Exception:
                log.exception("the node and the database could not be compared")

    async def run(self) -> None:
        """Once. Raises `NodeUnavailable`."""
        # Rows before facts: a row that says `running` was true on the node before the facts were asked for.
        rows = await self._context.store.sandboxes.in_states(*LIVE, "stopping")
        facts = {found.id: found for found in await self._node.sandboxes()}

        async def compare(row: SandboxRow) -> None:
            await self._compare(row, facts.get(row.id))

        await each([row for row in rows if row.node == self._node.name], compare)
        await each(facts.values(), self._sweep)
        await self._tell_orphans(facts)
        await self._spending.tell(self._node)
        await self._renew_grants()
        await self._secrets.catch_up()
        await self._policies.catch_up(rows)

    async def _compare(self, row: SandboxRow, found: NodeSandbox | None) -> None:
        if row.state == "stopping":
            await self._lifecycle.finish_destroy(row)
        elif row.state == "starting":
            await self._finish_start(row.id)
        elif row.state in MOVING:
            async with asyncio.timeout(_PATIENCE):  # it goes on without us: the others must not wait for it
                await self._moves.settled(row.id)
        elif found is None or found.state == "dead":
            reason = found.death if found is not None and found.death else "the node does not know it any more"
            log.warning("sandbox lost", sandbox=row.id, reason=reason)
            await self._lifecycle.lost(row, reason, found)
        elif _differ(row, found):
            log.warning("the row says what the node says", sandbox=row.id, row=row.state, node=found.state)
            await self._moves.adopt(row, found)

    async def _finish_start(self, sandbox_id: str) -> None:
        """A row in `starting` that nobody here is bringing up: a task's worker does that by itself; a plain one was
        left by a process that was killed. A template's build has those that it wants brought up itself."""
        if self._creator.booting(sandbox_id):
            return
        row = await self._context.store.sandboxes.get(sandbox_id)
        tasks = await self._context.store.tasks.of_sandboxes([sandbox_id])
        if row is not None and row.state == "starting" and row.build is None and not tasks:
            await self._creator.finish(row)

    async def _sweep(self, found: NodeSandbox) -> None:
        """End what the node has and nobody wants, and let it forget what has ended. A row is written before the node
        is asked for anything, and is durable before anything is paused, so the row of what lives is found here. What
        is paused and has none is of another database than this (an older copy, put back): it is somebody's, takes
        neither CPU nor memory, and the node ends it when its lifetime is over."""
        row = await self._context.store.sandboxes.get(found.id)
        if row is None and found.state in ("paused", "hibernated"):
            if found.id not in self._foreign:
                self._foreign.add(found.id)
                log.error(
                    "paused sandbox that the database does not know; kept until its lifetime ends, see `hutch orphan`",
                    id=found.id,
                )
            return
        if row is None or row.ended_at is not None:
            if found.state != "dead":
                log.warning("orphaned sandbox destroyed", sandbox=found.id)
            await self._node.destroy(found.id)

    async def _tell_orphans(self, facts: Container[str]) -> None:
        """The node, for `hutch doctor`; each time, for it may have been restarted."""
        known = self._foreign
        self._foreign = {id for id in known if id in facts and await self._context.store.sandboxes.get(id) is None}
        if known:
            await self._node.tell_orphans(self._foreign)

    async def _renew_grants(self) -> None:
        """Give a node that was restarted the keys again: it keeps them in memory-backed files only."""
        instance = (await self._node.info()).instance
        if instance == self._instance:
            return
        for task in await self._context.store.tasks.unfinished():
            grant = llm_grant(self._context, task)
            row = await self._context.store.sandboxes.get(task.sandbox_id)
            if grant is None or row is None or row.state != "running" or task.ended_at is not None:
                continue
            try:
                await self._node.set_llm(row.id, grant)
                current = await self._context.store.tasks.get(task.id)
                if current is None or current.ended_at is not None:  # it ended meanwhile, and its key with it
                    await self._node.set_llm(row.id, None)
            except NodeUnavailable:
                raise
            except HutchError as error:
                log.warning("key not given to the node", sandbox=row.id, error=str(error))
        for row in await self._context.store.sandboxes.with_secrets(*LIVE):
            if row.state != "starting":
                await secret_grants.tell(self._context, row)
        self._instance = instance


def _differ(row: SandboxRow, found: NodeSandbox) -> bool:
    """Both say that it lives, but not in the same way. Rows are read before facts, so this may only be what has
    happened in between: `Moves.adopt` looks at the row once more."""
    if row.state == "running":
        return found.state in ("paused", "hibernated") or (
            found.state == "running" and found.guest_token != row.guest_token
        )
    return row.state == "paused" and (found.state == "running" or found.snapshot != row.snapshot)
