"""Templates of organisations: their builds, and the tags that name these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from hutch.store.engine import Database, Transaction
from hutch.store.tables import sandboxes, template_builds, template_tags, templates

UNFINISHED = ("waiting", "building")


@dataclass(frozen=True)
class TemplateRow:
    """One template: a name of an organisation's."""

    id: str
    org: str
    name: str
    created_at: float


@dataclass(frozen=True)
class BuildRow:
    """One build. Times are Unix seconds."""

    id: str
    template_id: str
    org: str
    created_at: float
    state: str = "waiting"
    tags: list[str] = field(default_factory=list)
    wanted: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] | None = None
    """None until it is started."""
    sealed_login: bytes | None = None
    base: str | None = None
    made: str | None = None
    sandbox_id: str | None = None
    attempts: int = 0
    lines: int = 0
    reason: dict[str, Any] | None = None
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class TagRow:
    """A tag of a template, and the build that it names."""

    template_id: str
    tag: str
    build_id: str
    asked_at: float
    created_at: float


class Templates:
    """The tables `templates`, `template_builds` and `template_tags`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- templates ----

    async def ensure(self, row: TemplateRow) -> TemplateRow:
        """The template of this name, made if there is none."""
        try:
            async with self._database.write() as connection:
                await connection.execute(templates.insert().values(**asdict(row)))
            return row
        except IntegrityError:
            found = await self.find(row.org, row.name)
            if found is None:
                raise
            return found

    async def find(self, org: str, wanted: str) -> TemplateRow | None:
        """By its name or id."""
        statement = select(templates).where(
            templates.c.org == org, or_(templates.c.name == wanted, templates.c.id == wanted)
        )
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().first()
        return TemplateRow(**row) if row is not None else None

    async def by_id(self, template_id: str) -> TemplateRow | None:
        """Of whatever organisation."""
        async with self._database.read() as connection:
            found = await connection.execute(select(templates).where(templates.c.id == template_id))
        row = found.mappings().one_or_none()
        return TemplateRow(**row) if row is not None else None

    async def all(self, org: str) -> list[TemplateRow]:
        """By name."""
        async with self._database.read() as connection:
            statement = select(templates).where(templates.c.org == org).order_by(templates.c.name)
            return [TemplateRow(**row) for row in (await connection.execute(statement)).mappings()]

    async def remove(self, template_id: str) -> None:
        """With its builds, tags and logs."""
        async with self._database.write() as connection:
            await connection.execute(delete(templates).where(templates.c.id == template_id))

    # ---- builds ----

    async def add_build(self, row: BuildRow) -> None:
        async with self._database.write() as connection:
            await connection.execute(template_builds.insert().values(**asdict(row)))

    async def build(self, build_id: str, org: str | None = None) -> BuildRow | None:
        statement = select(template_builds).where(template_builds.c.id == build_id)
        if org is not None:
            statement = statement.where(template_builds.c.org == org)
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).mappings().one_or_none()
        return BuildRow(**row) if row is not None else None

    async def builds(self, template_id: str) -> list[BuildRow]:
        """Of one template, newest first."""
        statement = select(template_builds).where(template_builds.c.template_id == template_id)
        return await self._builds(statement.order_by(template_builds.c.created_at.desc()))

    async def queue(self) -> list[tuple[str, str]]:
        """Those that were started and wait: id and organisation, oldest first."""
        statement = select(template_builds.c.id, template_builds.c.org).where(
            template_builds.c.state == "waiting", template_builds.c.spec.is_not(None)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(statement.order_by(template_builds.c.created_at))
            return [(row.id, row.org) for row in rows]

    async def never_started(self, before: float) -> list[str]:
        """Ids of those asked for before then."""
        statement = select(template_builds.c.id).where(
            template_builds.c.state == "waiting",
            template_builds.c.spec.is_(None),
            template_builds.c.created_at < before,
        )
        async with self._database.read() as connection:
            return list((await connection.execute(statement)).scalars())

    async def unfinished(self, org: str) -> int:
        """How many of an organisation have not ended."""
        statement = select(func.count()).where(template_builds.c.org == org, template_builds.c.state.in_(UNFINISHED))
        async with self._database.read() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def in_states(self, *states: str) -> list[BuildRow]:
        """Oldest first."""
        statement = select(template_builds).where(template_builds.c.state.in_(states))
        return await self._builds(statement.order_by(template_builds.c.created_at))

    async def start(self, build_id: str, spec: dict[str, Any], sealed_login: bytes | None) -> bool:
        """Say what to build; False when that was said before."""
        statement = (
            update(template_builds)
            .where(template_builds.c.id == build_id, template_builds.c.spec.is_(None))
            .where(template_builds.c.state == "waiting")
            .values(spec=spec, sealed_login=sealed_login)
        )
        async with self._database.write() as connection:
            return bool((await connection.execute(statement)).rowcount)

    async def change(self, build_id: str, **values: Any) -> bool:
        """Change one that has not ended; False when it has."""
        async with self._database.write() as connection:
            return await self.change_in(connection, build_id, **values)

    async def change_in(self, connection: Transaction, build_id: str, **values: Any) -> bool:
        """`change`, as a part of a transaction."""
        statement = (
            update(template_builds)
            .where(template_builds.c.id == build_id, template_builds.c.state.in_(UNFINISHED))
            .values(**values)
        )
        return bool((await connection.execute(statement)).rowcount)

    async def finish(self, build: BuildRow, made: str, now: float) -> bool:
        """It is ready, and its tags are its own unless a later build has them; False when it had ended before."""
        async with self._database.write() as connection:
            over = {"state": "ready", "made": made, "ended_at": now, "sealed_login": None}
            if not await self.change_in(connection, build.id, **over):
                return False
            for tag in build.tags:
                await self._tag(connection, TagRow(build.template_id, tag, build.id, build.created_at, now))
            return True

    async def forget_builds(self, before: float) -> None:
        """Those that ended, or were not started, before then, and that no tag names."""
        tagged = select(template_tags.c.build_id)
        old = func.coalesce(template_builds.c.ended_at, template_builds.c.created_at) < before
        over = and_(template_builds.c.state.not_in(UNFINISHED), old, template_builds.c.id.not_in(tagged))
        async with self._database.write() as connection:
            await connection.execute(delete(template_builds).where(over))

    # ---- tags ----

    async def tags(self, template_id: str) -> list[TagRow]:
        """By name."""
        statement = select(template_tags).where(template_tags.c.template_id == template_id)
        async with self._database.read() as connection:
            rows = (await connection.execute(statement.order_by(template_tags.c.tag))).mappings().all()
        return [TagRow(**row) for row in rows]

    async def tags_of_org(self, org: str) -> int:
        """How many all templates of an organisation have together."""
        statement = (
            select(func.count())
            .select_from(template_tags.join(templates, templates.c.id == template_tags.c.template_id))
            .where(templates.c.org == org)
        )
        async with self._database.read() as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def tagged(self, template_id: str, tag: str) -> BuildRow | None:
        """The build that a tag names."""
        statement = (
            select(template_builds)
            .join(template_tags, template_tags.c.build_id == template_builds.c.id)
            .where(template_tags.c.template_id == template_id, template_tags.c.tag == tag)
        )
        found = await self._builds(statement)
        return found[0] if found else None

    async def set_tags(self, template_id: str, build_id: str, tags: Sequence[str], now: float) -> None:
        """Let them name this build."""
        async with self._database.write() as connection:
            for tag in tags:
                await self._tag(connection, TagRow(template_id, tag, build_id, now, now))

    async def remove_tags(self, template_id: str, tags: Sequence[str]) -> None:
        """No error for those that are not there."""
        statement = delete(template_tags).where(
            template_tags.c.template_id == template_id, template_tags.c.tag.in_(tags)
        )
        async with self._database.write() as connection:
            await connection.execute(statement)

    # ---- what of the node is needed ----

    async def needed(self, since: float) -> set[str]:
        """Names of the node's templates that builds which are tagged, not ended, or ended `since` then stand for or
        stand on, and those that sandboxes which have not ended are of."""
        tagged = select(template_tags.c.build_id)
        wanted = or_(
            template_builds.c.state.in_(UNFINISHED),
            template_builds.c.ended_at > since,
            template_builds.c.id.in_(tagged),
        )
        living = select(sandboxes.c.template).where(sandboxes.c.ended_at.is_(None)).distinct()
        async with self._database.read() as connection:
            builds = (
                await connection.execute(select(template_builds.c.made, template_builds.c.base).where(wanted))
            ).all()
        async with self._database.read() as connection:
            names = set((await connection.execute(living)).scalars())
        return names | {name for row in builds for name in row if name is not None}

    async def _builds(self, statement: Any) -> list[BuildRow]:
        async with self._database.read() as connection:
            return [BuildRow(**row) for row in (await connection.execute(statement)).mappings()]

    async def _tag(self, connection: Transaction, row: TagRow) -> None:
        mine = and_(template_tags.c.template_id == row.template_id, template_tags.c.tag == row.tag)
        current = (await connection.execute(select(template_tags.c.asked_at).where(mine))).scalar()
        if current is None:
            await connection.execute(template_tags.insert().values(**asdict(row)))
        elif current <= row.asked_at:
            values = {"build_id": row.build_id, "asked_at": row.asked_at, "created_at": row.created_at}
            await connection.execute(update(template_tags).where(mine).values(**values))
