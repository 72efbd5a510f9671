"""Files sent ahead of a task; the bytes are a blob, this is the record of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import delete, select, update

from hutch.store.engine import Database
from hutch.store.tables import uploads


@dataclass(frozen=True)
class UploadRow:
    """One upload. Times are Unix seconds."""

    id: str
    org: str
    size: int
    created_at: float
    expires_at: float

    @property
    def blob(self) -> str:
        """The key of its bytes."""
        return f"uploads/{self.id}.tar"


class Uploads:
    """The `uploads` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: UploadRow) -> None:
        async with self._database.write() as connection:
            await connection.execute(uploads.insert().values(**asdict(row)))

    async def get(self, upload_id: str, org: str, now: float) -> UploadRow | None:
        """The upload, unless it is another org's, expired, or not whole."""
        statement = select(uploads).where(
            uploads.c.id == upload_id, uploads.c.org == org, uploads.c.expires_at > now, uploads.c.size > 0
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return UploadRow(**row) if row is not None else None

    async def complete(self, upload_id: str, size: int) -> None:
        """All of its bytes are stored."""
        async with self._database.write() as connection:
            await connection.execute(update(uploads).where(uploads.c.id == upload_id).values(size=size))

    async def expired(self, now: float, limit: int = 100) -> list[UploadRow]:
        async with self._database.read() as connection:
            statement = select(uploads).where(uploads.c.expires_at <= now).limit(limit)
            rows = (await connection.execute(statement)).mappings().all()
        return [UploadRow(**row) for row in rows]

    async def forget(self, upload_id: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(uploads).where(uploads.c.id == upload_id))
