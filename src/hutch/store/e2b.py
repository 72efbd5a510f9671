"""What E2B's API adds to a sandbox: the options it was made with, and a time-out that can be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import RowMapping, and_, or_, select, update

from hutch.store.engine import Database, Transaction
from hutch.store.pages import read_cursor
from hutch.store.sandboxes import SandboxRow
from hutch.store.tables import e2b_sandboxes, labels, sandboxes


@dataclass(frozen=True)
class E2bRow:
    """Beside the sandbox of this id. Times are Unix seconds."""

    sandbox_id: str
    timeout: float
    end_at: float | None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Which sandboxes a list is asked for."""

    states: Sequence[str]
    labels: Mapping[str, str] = field(default_factory=dict)
    templates: Sequence[str] | None = None
    """Those that it stands on; or else what it was asked for by, as in `sources`: a snapshot."""
    sources: Sequence[str] = ()
    started_after: float | None = None
    ascending: bool = False


class E2bSandboxes:
    """The `e2b_sandboxes` table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, row: E2bRow) -> None:
        await connection.execute(e2b_sandboxes.insert(), vars(row))

    async def get(self, sandbox_id: str) -> E2bRow | None:
        statement = select(e2b_sandboxes).where(e2b_sandboxes.c.sandbox_id == sandbox_id)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return E2bRow(**row) if row is not None else None

    async def change(self, sandbox_id: str, **values: Any) -> None:
        """Set columns."""
        statement = update(e2b_sandboxes).where(e2b_sandboxes.c.sandbox_id == sandbox_id).values(**values)
        async with self._database.write() as connection:
            await connection.execute(statement)

    async def due(self, now: float) -> list[tuple[E2bRow, str]]:
        """Those whose time-out has to be seen to, with their states: it is over, it is unset though they run, or it is
        set though they are paused."""
        running = and_(
            sandboxes.c.state == "running", or_(e2b_sandboxes.c.end_at <= now, e2b_sandboxes.c.end_at.is_(None))
        )
        paused = and_(sandboxes.c.state == "paused", e2b_sandboxes.c.end_at.is_not(None))
        statement = (
            select(e2b_sandboxes, sandboxes.c.state)
            .join(sandboxes, sandboxes.c.id == e2b_sandboxes.c.sandbox_id)
            .where(or_(running, paused))
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [_split(row) for row in rows]

    async def live(self, states: Sequence[str]) -> list[str]:
        """Ids of all in these states, of every org, also of those that Hutch's own API has made."""
        statement = select(sandboxes.c.id).where(sandboxes.c.state.in_(states))
        async with self._database.read() as connection:
            return list((await connection.execute(statement)).scalars())

    async def living(self) -> list[tuple[str, str, str]]:
        """Id, org and state of all that were made through E2B's API and have not ended."""
        statement = (
            select(sandboxes.c.id, sandboxes.c.org, sandboxes.c.state)
            .join(e2b_sandboxes, sandboxes.c.id == e2b_sandboxes.c.sandbox_id)
            .where(sandboxes.c.ended_at.is_(None))
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [(row["id"], row["org"], row["state"]) for row in rows]

    async def page(self, org: str, wanted: Wanted, limit: int, cursor: str | None) -> list[tuple[SandboxRow, E2bRow]]:
        """Those that match, in the order of their making. Raises `InvalidRequest` for a cursor that we never made."""
        extra = [column.label(f"e2b_{column.name}") for column in e2b_sandboxes.c]
        statement = (
            select(sandboxes, *extra)
            .join(e2b_sandboxes, sandboxes.c.id == e2b_sandboxes.c.sandbox_id)
            .where(sandboxes.c.org == org, sandboxes.c.state.in_(wanted.states))
        )
        for key, value in wanted.labels.items():
            matching = select(labels.c.sandbox_id).where(labels.c.key == key, labels.c.value == value)
            statement = statement.where(sandboxes.c.id.in_(matching))
        if wanted.templates is not None:
            asked = e2b_sandboxes.c.options["template_id"].as_string()
            statement = statement.where(or_(sandboxes.c.template.in_(wanted.templates), asked.in_(wanted.sources)))
        if wanted.started_after is not None:
            statement = statement.where(sandboxes.c.created_at >= wanted.started_after)
        created, id = sandboxes.c.created_at, sandboxes.c.id
        if cursor is not None:
            at, last = read_cursor(cursor)
            beyond, next_id = (created > at, id > last) if wanted.ascending else (created < at, id < last)
            statement = statement.where(or_(beyond, and_(created == at, next_id)))
        order = (created.asc(), id.asc()) if wanted.ascending else (created.desc(), id.desc())
        async with self._database.read() as connection:
            rows = (await connection.execute(statement.order_by(*order).limit(limit))).mappings().all()
        return [_pair(row) for row in rows]


def _split(row: RowMapping) -> tuple[E2bRow, str]:
    values = dict(row)
    state = values.pop("state")
    return E2bRow(**values), state


def _pair(row: RowMapping) -> tuple[SandboxRow, E2bRow]:
    own = {column.name: row[f"e2b_{column.name}"] for column in e2b_sandboxes.c}
    return SandboxRow(**{column.name: row[column.name] for column in sandboxes.c}), E2bRow(**own)
