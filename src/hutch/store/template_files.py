"""Files that builds of templates copy; the bytes are a blob, this is the record of it."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass

from sqlalchemy import and_, delete, func, or_, select, update

from hutch.store.engine import Database
from hutch.store.tables import template_files

REPLACED = "replaced-"
"""Before the hash of what has been sent anew: no hash of a client has a `-`."""


@dataclass(frozen=True)
class FilesRow:
    """One archive. Times are Unix seconds."""

    org: str
    hash: str
    digest: str
    size: int
    created_at: float
    used_at: float

    @property
    def blob(self) -> str:
        """The key of its bytes."""
        return files_blob(self.org, self.digest)


def files_blob(org: str, digest: str) -> str:
    """By its content: two that send the same at once write the same."""
    return f"templates/{org}/{digest}.tar"


class TemplateFiles:
    """The `template_files` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: FilesRow) -> None:
        """Let the client's hash mean these. What it meant before stays a record, which no client can ask for: builds
        that go on may need it, and it counts until it is forgotten."""
        mine = (template_files.c.org == row.org, template_files.c.hash == row.hash)
        others = (*mine, template_files.c.digest != row.digest)
        before = f"{REPLACED}{secrets.token_hex(16)}"
        async with self._database.write() as connection:
            await connection.execute(update(template_files).where(*others).values(hash=before, used_at=row.used_at))
            await connection.execute(delete(template_files).where(*mine))
            await connection.execute(template_files.insert().values(**asdict(row)))

    async def use(self, org: str, hash: str, now: float) -> FilesRow | None:
        """What the client's hash means, if it is here; it counts as used."""
        mine = (template_files.c.org == org, template_files.c.hash == hash)
        async with self._database.write() as connection:
            await connection.execute(update(template_files).where(*mine).values(used_at=now))
            row = (await connection.execute(select(template_files).where(*mine))).mappings().one_or_none()
        return FilesRow(**row) if row is not None else None

    async def total(self, org: str) -> int:
        """Bytes that an organisation keeps."""
        statement = select(func.coalesce(func.sum(template_files.c.size), 0)).where(template_files.c.org == org)
        async with self._database.read() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def blobs(self) -> set[str]:
        """The keys of the bytes of all records, of every organisation."""
        statement = select(template_files.c.org, template_files.c.digest)
        async with self._database.read() as connection:
            return {files_blob(row.org, row.digest) for row in await connection.execute(statement)}

    async def unused(self, before: float, replaced: float, limit: int = 100) -> list[FilesRow]:
        """Those not used since then, and those that others replaced before `replaced`, of every organisation."""
        over = and_(template_files.c.hash.startswith(REPLACED), template_files.c.used_at < replaced)
        statement = select(template_files).where(or_(template_files.c.used_at < before, over)).limit(limit)
        async with self._database.read() as connection:
            return [FilesRow(**row) for row in (await connection.execute(statement)).mappings()]

    async def forget(self, row: FilesRow) -> bool:
        """Whether nobody else's hash means the same content, so that the blob can go."""
        same = (template_files.c.org == row.org, template_files.c.digest == row.digest)
        async with self._database.write() as connection:
            mine = (template_files.c.org == row.org, template_files.c.hash == row.hash)
            await connection.execute(delete(template_files).where(*mine))
            left = (
                await connection.execute(select(func.count()).select_from(template_files).where(*same))
            ).scalar_one()
        return not left
