"""The secrets of organisations: kept sealed, listed without their values, sealed anew under another key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from hutch.control.context import Context
from hutch.control.secret_grants import context_of, e2b_context, kept_context, tell
from hutch.control.together import each
from hutch.errors import LimitReached, NodeUnavailable, NotFound
from hutch.model import PutSecret, Secret
from hutch.secrets import VaultError, key_number
from hutch.store.sandboxes import LIVE, SandboxRow
from hutch.store.secrets import SecretRow

log = structlog.get_logger("hutch.control")

MOST = 1000
"""Of one organisation."""


class Secrets:
    """`Control.secrets`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rows = context.store.secrets
        self._named = context.store.e2b_secrets
        self._database = context.store.database
        self._keyring = context.keyring
        self._spreading = asyncio.Lock()
        self._untold: set[str] = set()
        """Sandboxes whose node did not answer."""
        self.writing = context.sealing

    async def put(self, name: str, request: PutSecret, org: str) -> Secret:
        """Make it, or replace it. `LimitReached`."""
        now = time.time()
        async with self.writing:
            sealed = self._keyring.seal(request.value.get_secret_value(), context_of(org, name))
            row = SecretRow(org, name, list(request.hosts), list(request.places), sealed, now, now)
            found = await self._rows.put(row, MOST)
        if found is None:
            raise LimitReached(f"an organisation has at most {MOST} secrets", limit="secrets")
        await self.spread(org, lambda row: name in row.secrets)
        return secret_view(found)

    async def list(self, org: str) -> list[Secret]:
        """All of the organisation's, by name."""
        return [secret_view(row) for row in await self._rows.all(org)]

    async def delete(self, name: str, org: str) -> None:
        """Forget it. `NotFound`."""
        if not await self._rows.delete(org, name):
            raise no_secret(name)
        await self.spread(org, lambda row: name in row.secrets)

    async def spread(self, org: str, uses: Callable[[SandboxRow], bool]) -> None:
        """Have all sandboxes that use what was changed do so as it is now. One after the other, so that what a node is
        told last is what is true; a node that does not answer is told when it is back."""
        async with self._spreading:
            found = await self._context.store.sandboxes.with_secrets(*LIVE)
            mine = [row for row in found if row.org == org and row.state != "starting" and uses(row)]
            await each(mine, self._tell)

    async def _tell(self, row: SandboxRow) -> None:
        try:
            await tell(self._context, row)
        except NodeUnavailable:
            self._untold.add(row.id)
            raise

    async def catch_up(self) -> None:
        """Tell the node what it could not be told before. Raises `NodeUnavailable`."""
        async with self._spreading:
            for id in list(self._untold):
                row = await self._context.store.sandboxes.get(id)
                if row is not None and row.state in LIVE:
                    await tell(self._context, row)
                self._untold.discard(id)

    async def rekey(self) -> int:
        """Seal all values with a new key, and forget the older ones; how many secrets there are. What a crash leaves
        undone is done at the next start: until then the file has both keys."""
        async with self.writing:
            await asyncio.to_thread(self._keyring.add)
            return await self._seal_anew()

    async def finish_rekey(self) -> None:
        """What an earlier process has left undone."""
        if self._keyring.changing:
            async with self.writing:
                count = await self._seal_anew()
            log.info("secrets sealed with the newest key", secrets=count)

    async def _seal_anew(self) -> int:
        rows, grants = await self._rows.everything(), await self._rows.grants()
        named = await self._named.everything()
        async with self._database.write() as connection:
            for row in rows:
                if (sealed := self._sealed_anew(row.sealed, context_of(row.org, row.name))) is not None:
                    await self._rows.reseal(connection, row, sealed)
            for each in named:
                if (sealed := self._sealed_anew(each.sealed, e2b_context(each.id))) is not None:
                    await self._named.reseal(connection, each, sealed)
            for id, before, ended in grants:
                sealed = None if ended else self._sealed_anew(before, kept_context(id))
                if ended or sealed is not None:
                    await self._rows.reseal_grant(connection, id, before, sealed)
        await self._database.settle()  # the old key goes only when nothing can bring back what it has sealed
        await asyncio.to_thread(self._keyring.forget_older)
        return len(rows) + len(named)

    def _sealed_anew(self, before: bytes, context: str) -> bytes | None:
        """None for what has the newest key already, and for what no key opens: it is lost, and must not keep the server
        from starting."""
        try:
            if key_number(before) == self._keyring.current:
                return None
            return self._keyring.seal(self._keyring.unseal(before, context), context)
        except VaultError as error:
            log.error("what was sealed cannot be opened", what=context, error=str(error))
            return None


def no_secret(name: str) -> NotFound:
    """The error that names it."""
    return NotFound(f"there is no secret {name[:64]}", hint="`hutch secret ls` lists them.")


def secret_view(row: SecretRow) -> Secret:
    """Without its value."""
    return Secret(
        name=row.name,
        hosts=row.hosts,
        places=row.places,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        updated_at=datetime.fromtimestamp(row.updated_at, UTC),
    )
