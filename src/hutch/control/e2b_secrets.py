"""Secrets that were made through E2B's API: a name and a value, for no host in particular. Header rules of sandboxes
refer to them (`hutch.model.headers`), and say where they go."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError

from hutch.control.context import Context
from hutch.control.secret_grants import e2b_context, rules_of
from hutch.control.secrets import MOST, Secrets
from hutch.control.types import Page
from hutch.errors import Conflict, LimitReached, NotFound
from hutch.model import new_id
from hutch.model.e2b_secret import E2bSecret, NewE2bSecret, UpdateE2bSecret
from hutch.store.e2b_secrets import E2bSecretRow
from hutch.store.pages import make_cursor
from hutch.store.sandboxes import SandboxRow


class E2bSecrets:
    """`Control.e2b_secrets`. Which one is meant is said by its id or its name."""

    def __init__(self, context: Context, secrets: Secrets) -> None:
        self._context = context
        self._rows = context.store.e2b_secrets
        self._secrets = secrets

    async def create(self, request: NewE2bSecret, org: str) -> E2bSecret:
        """`Conflict` for a name that is taken, `LimitReached`."""
        id, now = new_id("sec"), time.time()
        async with self._secrets.writing:
            sealed = self._seal(id, request.value.get_secret_value())
            row = E2bSecretRow(id, org, request.name, 1, sealed, now, now, request.metadata)
            try:
                there = await self._rows.insert(row, MOST)
            except IntegrityError as error:
                raise Conflict(f"there is a secret {request.name!r} already", hint="Update it.") from error
        if not there:
            raise LimitReached(f"an organisation has at most {MOST} secrets", limit="secrets")
        await self._spread(row)  # a rule may have waited for it
        return secret_view(row)

    async def get(self, wanted: str, org: str) -> E2bSecret:
        """`NotFound`."""
        return secret_view(await self._find(wanted, org))

    async def page(self, org: str, limit: int, cursor: str | None) -> Page[E2bSecret]:
        """The oldest first. `InvalidRequest`."""
        rows = await self._rows.page(org, limit + 1, cursor)
        more = make_cursor(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else None
        return Page([secret_view(row) for row in rows[:limit]], more)

    async def update(self, wanted: str, request: UpdateE2bSecret, org: str) -> E2bSecret:
        """Another value, in force in all sandboxes when this returns. `NotFound`."""
        row = await self._find(wanted, org)
        async with self._secrets.writing:
            sealed = self._seal(row.id, request.value.get_secret_value())
            found = await self._rows.replace(row.id, sealed, request.metadata, time.time())
        if found is None:
            raise no_secret(wanted)
        await self._spread(found)
        return secret_view(found)

    async def delete(self, wanted: str, org: str) -> None:
        """What refers to it is refused from now on. `NotFound`."""
        row = await self._find(wanted, org)
        if not await self._rows.delete(row):
            raise no_secret(wanted)
        await self._spread(row)

    async def _find(self, wanted: str, org: str) -> E2bSecretRow:
        row = await self._rows.find(org, wanted.lower())
        if row is None:
            raise no_secret(wanted)
        return row

    async def _spread(self, secret: E2bSecretRow) -> None:
        def uses(row: SandboxRow) -> bool:
            return any(secret.name in rule.secrets for rule in rules_of(self._context, row))

        await self._secrets.spread(secret.org, uses)

    def _seal(self, id: str, value: str) -> bytes:
        return self._context.keyring.seal(value, e2b_context(id))


def no_secret(wanted: str) -> NotFound:
    """The error that names it."""
    return NotFound(f"secret {wanted[:128]!r} not found")


def secret_view(row: E2bSecretRow) -> E2bSecret:
    """Without its value."""
    return E2bSecret(
        id=row.id,
        name=row.name,
        version=row.version,
        metadata=row.metadata,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        updated_at=datetime.fromtimestamp(row.updated_at, UTC),
    )
