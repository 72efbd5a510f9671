"""The beginning and the end of a sandbox: every state change is a compare-and-set on its row.

    starting ──► running ──► stopping ──► stopped
        │           │            ▲
        └───────────┴── failed   │      `destroy` is legal in every state that has not ended, and always wins:
        └────────────────────────┘      who boots finds the row changed, and takes down what it has put up.

What lies between `running` and `paused` is in `control/moves.py`.

The row is changed before the node is asked, and again after; never is a transaction open meanwhile. Each method may
be repeated after a crash at any of its lines.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from pydantic import TypeAdapter

from hutch.control import networks, secret_grants
from hutch.control.context import Context, not_running
from hutch.control.mounts import Mounts
from hutch.control.notifier import events_of, sandbox, stop_of
from hutch.control.views import measured
from hutch.control.volumes import Volumes
from hutch.errors import HutchError, NodeUnavailable, SandboxNotFound
from hutch.model import BootRequest, LlmGrant, NetworkPolicy, NodeSandbox
from hutch.model.grant import SecretGrant
from hutch.store.engine import Transaction
from hutch.store.sandboxes import LIVE, SandboxRow

log = structlog.get_logger("hutch.control")

DEADLINE_GRACE = 60.0
"""The node destroys a task's sandbox by itself only so long after its deadline: the server needs the time to collect
the outputs of a task that has timed out."""
_ENV: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def seal_env(context: Context, sandbox_id: str, env: dict[str, str]) -> bytes:
    """The environment as it is stored until the boot: people put secrets there."""
    return context.vault.seal(_ENV.dump_json(env).decode(), f"sandboxes.env:{sandbox_id}")


class Lifecycle:
    """Boots, ends and fails sandboxes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rows = context.store.sandboxes
        self.volumes = Volumes(context)
        self.mounts = Mounts(context, self.volumes)

    async def boot(
        self,
        row: SandboxRow,
        llm: LlmGrant | None = None,
        grace: float = 0.0,
        also: Callable[[Transaction, SandboxRow], Awaitable[None]] | None = None,
    ) -> SandboxRow:
        """Bring a sandbox from `starting` to `running`; the row as it is then. `also` is done in the transaction that
        says so. Raises what the node says (then it is `failed`, and nothing is left), `NodeUnavailable` (then it is
        still `starting`), and `SandboxNotRunning` when it was destroyed meanwhile."""
        if row.state == "running":
            return row
        if row.state != "starting":
            raise not_running(row)
        node = self._context.node_of(row)
        try:
            secrets = await secret_grants.secret_grant(self._context, row)
            network = (await networks.meaning(self._context, row.org, networks.asked(row))).policy
            facts = await node.boot(row.id, self._request(row, network, llm, secrets, grace))
        except NodeUnavailable:
            raise
        except HutchError as error:
            await self.fail(row.id, error)
            raise
        await self._mount(row, facts)
        while row.state == "starting":
            if (running := await self._running(row, facts, also)) is not None:
                if await secret_grants.secret_grant(self._context, row) != secrets:  # set while it was booted
                    await secret_grants.tell(self._context, running)
                await self._catch_up(running)
                return running
            row = await self._get(row.id)
        if row.state == "running":
            return row
        await node.destroy(row.id)
        raise not_running(row)

    async def _mount(self, row: SandboxRow, facts: NodeSandbox) -> None:
        """Before anybody is told that it runs."""
        try:
            await self.mounts.attach(row, facts.guest_token or "")
        except NodeUnavailable:
            raise
        except HutchError as error:
            await self.fail(row.id, error)
            with suppress(NodeUnavailable):  # then the reconciler has it removed
                await self._context.node_of(row).destroy(row.id)
            raise

    async def destroy(self, sandbox_id: str, reason: str, stop: dict[str, Any] | None = None) -> None:
        """End it, in any state. `stop` is what its task, if one goes on, is told. When the node does not answer, the
        row says `stopping` and the reconciler goes on with it."""
        while True:
            row = await self._get(sandbox_id)
            if row.state not in LIVE:
                break
            async with self._context.store.database.write() as connection:
                changed = await self._rows.change_in(
                    connection, row.id, row.version, state="stopping", reason=reason, sealed_env=None
                )
                told = await self._tell_task(connection, row.id, stop) if changed else None
            if changed:
                self._announce(row.id, told)
                row = await self._get(sandbox_id)
                break
        if row.state == "stopping":
            await self.finish_destroy(row)

    async def finish_destroy(self, row: SandboxRow) -> None:
        """From `stopping` to `stopped`."""
        try:
            facts = await self._context.node_of(row).destroy(row.id)
        except NodeUnavailable as error:
            log.warning("sandbox is destroyed when its node is back", sandbox=row.id, error=error.detail)
            return
        await self._end(row, "stopped", facts)

    async def fail(self, sandbox_id: str, error: HutchError) -> None:
        """From `starting` to `failed`: it never came up. What the node may have made of it, it removes by itself, or
        the reconciler has it removed."""
        while (row := await self._get(sandbox_id)).state == "starting":
            if await self._rows.change(
                row.id,
                row.version,
                state="failed",
                reason=error.detail,
                problem=error.to_problem(),
                ended_at=time.time(),
                sealed_env=None,
            ):
                self._announce(row.id, None)

    async def lost(self, row: SandboxRow, reason: str, facts: NodeSandbox | None = None) -> None:
        """The node does not have it any more (or only its tombstone, `facts`)."""
        async with self._context.store.database.write() as connection:
            told = await self.died(connection, row.id, reason, measured(facts), version=row.version)
        self._announce(row.id, told)

    async def died(
        self,
        connection: Transaction,
        sandbox_id: str,
        reason: str,
        figures: dict[str, Any],
        version: int | None = None,
    ) -> str | None:
        """The node says that the sandbox is dead. Part of a transaction; answers the id of the task that has to be
        woken after it. With `version`, nothing happens when the row has changed since."""
        row = await self._rows.lock(connection, sandbox_id)
        if row is None or row.ended_at is not None or (version is not None and row.version != version):
            return None
        expected = row.state == "stopping"
        overdue = not expected and time.time() >= row.deadline
        stop = {"state": "failed", "error": "sandbox_died", "detail": reason}
        if overdue:
            stop = {"state": "timed_out", "error": "lifetime_over", "detail": "the sandbox's lifetime is over"}
        await self._rows.change_in(
            connection,
            row.id,
            row.version,
            state="stopped" if expected or overdue else "failed",
            reason=row.reason if expected else reason,
            ended_at=time.time(),
            sealed_env=None,
            guest_token=None,
            usage=row.usage | figures,
        )
        return await self._tell_task(connection, row.id, stop)

    async def _catch_up(self, row: SandboxRow) -> None:
        """Its policies may have been changed while it was booted, and it may be that an earlier process had it booted:
        the row has the revisions of when it was made. What fails, the reconciler does."""
        try:
            if await networks.behind(self._context, row):
                await networks.tell(self._context, row.id)
        except HutchError as error:
            log.warning("node not told of a changed policy", sandbox=row.id, error=str(error))

    def _request(
        self,
        row: SandboxRow,
        network: NetworkPolicy,
        llm: LlmGrant | None,
        secrets: SecretGrant | None,
        grace: float,
    ) -> BootRequest:
        env = {}
        if row.sealed_env is not None:
            env = _ENV.validate_json(self._context.vault.unseal(row.sealed_env, f"sandboxes.env:{row.id}"))
        return BootRequest.model_validate(
            {
                "template": row.template,
                "resources": row.resources,
                "network": secret_grants.enforced(self._context, row, network).model_dump(),
                "deadline": row.deadline + grace,
                "env": env,
                "llm": llm,
                "secrets": secrets,
                "org": row.org,
                "from_snapshot": row.snapshot,
                "fallback": row.fallback == "disk",
                "build": row.build,
            }
        )

    async def _running(
        self,
        row: SandboxRow,
        facts: NodeSandbox,
        also: Callable[[Transaction, SandboxRow], Awaitable[None]] | None,
    ) -> SandboxRow | None:
        """The row as it is now; None when it was changed by somebody else."""
        values: dict[str, Any] = {
            "state": "running",
            "started_at": facts.started_at.timestamp(),
            "start": facts.start,
            "start_reason": facts.start_reason,
            "guest_token": facts.guest_token,
            "guest_user": facts.user,
            "workdir": facts.workdir,
            "last_active": time.time(),
            "sealed_env": None,
        }
        running = replace(row, version=row.version + 1, **values)

        async def change(connection: Transaction) -> bool:
            changed = await self._rows.change_in(connection, row.id, row.version, **values)
            if changed and also is not None:
                await also(connection, running)
            return changed

        if not await self._context.store.database.transact(change):
            return None
        self._announce(row.id, None)
        return running

    async def _end(self, row: SandboxRow, state: str, facts: NodeSandbox | None) -> None:
        async with self._context.store.database.write() as connection:
            current = await self._rows.lock(connection, row.id)
            if current is None:
                return
            values: dict[str, Any] = {"usage": current.usage | measured(facts), "guest_token": None}
            if current.ended_at is None:
                values |= {"state": state, "ended_at": time.time()}
            await self._rows.change_in(connection, row.id, current.version, **values)
        self._announce(row.id, None)

    async def _tell_task(self, connection: Transaction, sandbox_id: str, stop: dict[str, Any] | None) -> str | None:
        task = await self._context.store.tasks.of_sandbox(connection, sandbox_id)
        if task is not None and task.ended_at is not None:
            await self._context.store.tasks.note(connection, task.id, sealed_llm_key=None)  # it was kept for a rollback
        if task is None or stop is None or task.ended_at is not None:
            return None
        await self._context.store.tasks.ask_to_stop(connection, task.id, stop)
        return task.id

    def _announce(self, sandbox_id: str, task_id: str | None) -> None:
        self._context.notifier.notify(sandbox(sandbox_id))
        if task_id is not None:
            self._context.notifier.notify(stop_of(task_id), events_of(task_id))

    async def _get(self, sandbox_id: str) -> SandboxRow:
        row = await self._rows.get(sandbox_id)
        if row is None:
            raise SandboxNotFound(f"no sandbox {sandbox_id}")
        return row
