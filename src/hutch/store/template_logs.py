"""What builds of templates have said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import select, update

from hutch.store.engine import Database
from hutch.store.tables import template_builds, template_logs

LEVELS = ("debug", "info", "warn", "error")


@dataclass(frozen=True)
class LogLine:
    """One line. `level` is a place in `LEVELS`."""

    time: float
    level: int
    message: str
    step: str | None = None


class TemplateLogs:
    """The `template_logs` table. Offsets of a build's lines are from 0, without gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, build_id: str, lines: Sequence[LogLine], after: int) -> None:
        """Lines behind the first `after`. Nothing happens when the build is not there any more."""
        rows = [{"build_id": build_id, "offset": after + n, **asdict(line)} for n, line in enumerate(lines)]
        total = update(template_builds).where(template_builds.c.id == build_id).values(lines=after + len(rows))
        async with self._database.write() as connection:
            if (await connection.execute(total)).rowcount:
                await connection.execute(template_logs.insert(), rows)

    async def page(self, build_id: str, offset: int, limit: int, level: int = 0) -> list[LogLine]:
        """From the line `offset` on, of those that are at least of this level."""
        columns = (template_logs.c.time, template_logs.c.level, template_logs.c.message, template_logs.c.step)
        statement = select(*columns).where(template_logs.c.build_id == build_id, template_logs.c.level >= level)
        # Without a level the offset is the row's own, and nothing has to be counted.
        statement = statement.offset(offset) if level else statement.where(template_logs.c.offset >= offset)
        async with self._database.read() as connection:
            rows = await connection.execute(statement.order_by(template_logs.c.offset).limit(limit))
            return [LogLine(**row) for row in rows.mappings()]

    async def of_step(self, build_id: str, step: str, limit: int) -> list[LogLine]:
        """The last lines of one step, oldest first."""
        columns = (template_logs.c.time, template_logs.c.level, template_logs.c.message, template_logs.c.step)
        statement = select(*columns).where(template_logs.c.build_id == build_id, template_logs.c.step == step)
        async with self._database.read() as connection:
            rows = await connection.execute(statement.order_by(template_logs.c.offset.desc()).limit(limit))
            return [LogLine(**row) for row in rows.mappings()][::-1]
