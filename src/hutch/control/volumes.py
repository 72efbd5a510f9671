"""Making, finding and removing volumes, and opening them for whoever uses their files."""

from __future__ import annotations

import asyncio
import posixpath
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError

from hutch.control.context import Context
from hutch.errors import AlreadyExists, Conflict, InternalError, InvalidRequest, LimitReached, VolumeNotFound
from hutch.model import Volume, VolumeMount, new_id
from hutch.store import DEFAULT_ORG
from hutch.store.engine import Transaction
from hutch.store.sandboxes import SandboxRow
from hutch.store.volumes import VolumeRow
from hutch.volumes import Shelf
from hutch.volumes import Volume as OpenVolume

log = structlog.get_logger("hutch.control")

_FORBIDDEN = ("/proc/", "/sys/", "/dev/", "/run/hutch/", "/.hutch/", "/.hutch-run/")


class Volumes:
    """Every method that takes an id or a name raises `VolumeNotFound` when it is unknown *in that org*."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store.volumes
        self._shelf = Shelf(context.settings.server_dir / "volumes", context.settings.volume_bytes)

    async def start(self) -> None:
        """Finish the removals that an earlier process has begun."""
        for row in await self._store.removed():
            await self._finish(row)

    async def close(self) -> None:
        """Close their files."""
        await self._shelf.close()

    async def create(self, name: str, *, org: str = DEFAULT_ORG) -> Volume:
        """A new, empty one. Raises `AlreadyExists`, `LimitReached`."""
        row = VolumeRow(new_id("vol"), org, name, time.time())
        most = self._context.settings.volumes_per_org
        try:
            async with self._context.store.database.write() as connection:
                if await self._store.count(connection, org) >= most:
                    raise LimitReached(
                        f"there are {most} volumes", limit="volumes", hint="Remove one that is not used."
                    )
                await self._store.insert(connection, row)
        except IntegrityError as error:
            raise AlreadyExists(f"there is a volume {name!r}", field="name") from error
        return _view(row)

    async def all(self, *, org: str = DEFAULT_ORG) -> Sequence[Volume]:
        """All of the organisation's, oldest first."""
        return [_view(row) for row in await self._store.of(org) if row.removed_at is None]

    async def get(self, name_or_id: str, *, org: str = DEFAULT_ORG) -> Volume:
        """One of them."""
        return _view(await self._row(name_or_id, org))

    async def used(self, *, org: str = DEFAULT_ORG) -> int:
        """Bytes that the organisation's volumes have together."""
        return (await self._shelf.allowance(org, partial(self._ids, org))).used

    async def remove(self, name_or_id: str, *, org: str = DEFAULT_ORG) -> None:
        """Delete it with its files. Raises `Conflict` while a sandbox has it."""
        row = await self._row(name_or_id, org)
        async with self._context.store.database.write() as connection:
            if row.name not in await self._store.lock(connection, org, {row.name}):
                raise VolumeNotFound(f"no volume {name_or_id[:64]!r}")
            await self._check_unused(row)
            await self._store.mark_removed(connection, row.id, time.time())
        await self._finish(row)

    async def mounts_of(self, wanted: Sequence[VolumeMount], org: str) -> list[dict[str, str]] | None:
        """What a new sandbox's row says of its volumes. Raises `InvalidRequest` for places that cannot be."""
        if not wanted:
            return None
        paths = [posixpath.normpath("/" + mount.path.lstrip("/")) for mount in wanted]
        _check_places(paths)
        known = {row.name: row for row in await self._store.of(org) if row.removed_at is None}
        for mount in wanted:
            if mount.name not in known:
                raise VolumeNotFound(f"no volume {mount.name!r}", field="volumes")
        return [
            {"volume": known[mount.name].id, "name": mount.name, "path": path}
            for mount, path in zip(wanted, paths, strict=True)
        ]

    async def check_mounts(self, connection: Transaction, row: SandboxRow) -> None:
        """In the transaction that writes this row: its volumes are there, and are not removed before it ends."""
        if row.volumes:
            found = await self._store.lock(connection, row.org, {mount["name"] for mount in row.volumes})
            for mount in row.volumes:
                if mount["name"] not in found or found[mount["name"]].id != mount["volume"]:
                    raise VolumeNotFound(f"no volume {mount['name']!r}", field="volumes")

    @asynccontextmanager
    async def using(self, volume_id: str, org: str) -> AsyncIterator[OpenVolume]:
        """Its files. Raises `InternalError` when they cannot be read."""
        opened = self._shelf.using(volume_id, org, partial(self._ids, org))
        try:
            volume = await opened.__aenter__()
        except (OSError, sqlite3.Error) as error:
            log.exception("a volume cannot be opened", volume=volume_id)
            raise InternalError(f"the volume {volume_id} cannot be opened") from error
        try:
            yield volume
        finally:
            await opened.__aexit__(None, None, None)

    def token(self, volume_id: str) -> str:
        """What its content is reached with, through E2B's API: it is good for nothing else, and always the same."""
        return self._context.vault.token(f"volumes.content:{volume_id}")

    async def by_id(self, volume_id: str) -> VolumeRow:
        """Of whatever organisation, for who has its token. Raises `VolumeNotFound`."""
        row = await self._store.get(volume_id)
        if row is None or row.removed_at is not None:
            raise VolumeNotFound(f"no volume {volume_id[:64]!r}")
        return row

    async def _row(self, name_or_id: str, org: str) -> VolumeRow:
        for row in await self._store.of(org):
            if name_or_id in (row.id, row.name) and row.removed_at is None:
                return row
        raise VolumeNotFound(f"no volume {name_or_id[:64]!r}")

    async def _ids(self, org: str) -> AsyncIterator[str]:
        for row in await self._store.of(org):
            yield row.id

    async def _check_unused(self, row: VolumeRow) -> None:
        for sandbox in await self._context.store.sandboxes.with_volumes(row.org):
            if any(mount["volume"] == row.id for mount in sandbox.volumes or ()):
                raise Conflict(
                    f"the volume {row.name!r} is mounted in {sandbox.id}, which is {sandbox.state}",
                    hint="Remove the sandbox first.",
                    sandbox=sandbox.id,
                )

    async def _finish(self, row: VolumeRow) -> None:
        """Its files, then its record."""
        work: asyncio.Task[Any] = asyncio.create_task(self._delete(row))
        await asyncio.shield(work)

    async def _delete(self, row: VolumeRow) -> None:
        await self._shelf.remove(row.id, row.org)
        await self._store.forget(row.id)


def _view(row: VolumeRow) -> Volume:
    return Volume(id=row.id, name=row.name, created_at=datetime.fromtimestamp(row.created_at, UTC))


def _check_places(paths: Iterable[str]) -> None:
    before = None
    for path in sorted(path.rstrip("/") + "/" for path in paths):
        if path == "/" or path.startswith(_FORBIDDEN):
            raise InvalidRequest(f"no volume can be mounted at {path.rstrip('/') or '/'}", field="volumes")
        if before is not None and path.startswith(before):
            raise InvalidRequest(f"two volumes at {before[:-1]}, or one in the other", field="volumes")
        before = path
