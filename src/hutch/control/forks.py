"""New sandboxes from one that there is: all of them, or none."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress

from hutch.control.context import Context
from hutch.control.create import Creator
from hutch.control.guests import Guests
from hutch.control.lifecycle import Lifecycle
from hutch.control.snapshots import Snapshots
from hutch.control.together import each as at_once
from hutch.control.types import Also, Idempotency
from hutch.errors import HutchError
from hutch.model import CreateSandbox, Fork, Sandbox, SnapshotReason
from hutch.model.headers import HeaderRule
from hutch.store.engine import Transaction
from hutch.store.sandboxes import SandboxRow

_AT_ONCE = 8


class Forks:
    """`Control.fork`."""

    def __init__(
        self, context: Context, guests: Guests, snapshots: Snapshots, creator: Creator, lifecycle: Lifecycle
    ) -> None:
        self._context = context
        self._guests = guests
        self._snapshots = snapshots
        self._creator = creator
        self._lifecycle = lifecycle

    async def fork(
        self,
        sandbox_id: str,
        wish: Fork,
        org: str,
        by: str | None,
        idempotency: Idempotency | None,
        also: Also | None = None,
        rules: Sequence[HeaderRule] = (),
    ) -> list[Sandbox]:
        """See `Control.fork`."""
        row = await self._guests.row(sandbox_id, org)
        source = await self._source(row, wish, by, idempotency)
        request = _request(row, source, wish, self._context.settings.max_lifetime)
        turns = asyncio.Semaphore(_AT_ONCE)
        group = uuid.uuid4().hex if idempotency is None else None

        async def marked(connection: Transaction, made: str) -> None:
            """What another process finds with the mark nobody was told of. With a key it can be asked for again."""
            if also is not None:
                await also(connection, made)
            if group is not None:
                await self._context.store.sandboxes.note(connection, made, fork=group)

        async def one(number: int) -> Sandbox:
            async with turns:
                return await self._creator.create(request, org, by, keys[number], marked, rules)

        keys = [_key(idempotency, number) for number in range(wish.count)]
        made = await asyncio.gather(*(one(number) for number in range(wish.count)), return_exceptions=True)
        failures = [each for each in made if isinstance(each, BaseException)]
        whole = [each for each in made if isinstance(each, Sandbox)]
        if not failures:
            try:
                if group is not None:
                    await self._context.store.sandboxes.forked([each.id for each in whole])
                return whole
            except HutchError as error:
                failures = [error]
        for each, key in zip(made, keys, strict=True):
            if isinstance(each, Sandbox):
                await self._undo(each, key)
        if wish.from_snapshot is None:
            with suppress(HutchError):  # nobody knows of it; the same key takes it anew
                await self._snapshots.delete(source, org)
        raise failures[0]

    async def left(self) -> list[SandboxRow]:
        """To be asked when a server starts: what forks of another process, which was killed, have left."""
        return await self._context.store.sandboxes.of_forks()

    async def undo(self, left: list[SandboxRow]) -> None:
        """Destroy them."""

        async def one(row: SandboxRow) -> None:
            await self._lifecycle.destroy(row.id, "the server was killed before all of its fork were made")

        await at_once(left, one)

    async def _source(self, row: SandboxRow, wish: Fork, by: str | None, idempotency: Idempotency | None) -> str:
        """The snapshot to thaw: the one that is named, or one of now. For the same key it is the same one."""
        if wish.from_snapshot is not None:
            return (await self._snapshots.check_of(row, wish.from_snapshot)).id
        taken = await self._snapshots.take(row.id, row.org, by=by, reason=SnapshotReason.FORK, idempotency=idempotency)
        return taken.id

    async def _undo(self, made: Sandbox, key: Idempotency | None) -> None:
        """The others could not be made. The key may be used again."""
        await self._lifecycle.destroy(made.id, "another of the same fork could not be made")
        if key is not None:
            await self._context.store.idempotency.forget(key.owner, key.key, made.id)


def _request(row: SandboxRow, source: str, wish: Fork, max_lifetime: float) -> CreateSandbox:
    """What the parent was made with, but nothing that is its alone: no environment, no secret, no task."""
    return CreateSandbox.model_validate(
        {
            "from": source,
            "labels": row.labels,
            "network": row.network,
            "lifetime": min(max_lifetime, row.deadline - row.created_at),
            "idle_timeout": row.idle_timeout,
            "fallback": wish.fallback or row.fallback,
            "identity": wish.identity,
            "secrets": wish.secrets,
        }
    )


def _key(idempotency: Idempotency | None, number: int) -> Idempotency | None:
    if idempotency is None:
        return None
    digest = hashlib.sha256(b"fork\0" + idempotency.key.encode()).hexdigest()
    return Idempotency(idempotency.owner, f"{digest}/{number}")
