"""Sandboxes. Every change of a row is a compare-and-set on its `version`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update

from hutch.store import audit
from hutch.store.engine import Database, Transaction
from hutch.store.pages import after_cursor
from hutch.store.tables import labels, sandboxes, tasks


@dataclass(frozen=True)
class SandboxRow:
    """One sandbox: what is intended of it, and what is known. Times are Unix seconds."""

    id: str
    org: str
    state: str
    template: str
    resources: dict[str, Any]
    network: dict[str, Any]
    created_at: float
    deadline: float
    version: int = 1
    node: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    keep: bool = False
    sealed_env: bytes | None = None
    policies_told: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    sealed_secrets: bytes | None = None
    guest_token: str | None = None
    guest_user: str | None = None
    workdir: str | None = None
    started_at: float | None = None
    ended_at: float | None = None
    snapshot: str | None = None
    build: dict[str, Any] | None = None
    public_ports: list[int] = field(default_factory=list)
    volumes: list[dict[str, str]] | None = None
    taking: str | None = None
    paused_at: float | None = None
    hibernated: bool = False
    resumed: dict[str, Any] | None = None
    fallback: str | None = None
    fork: str | None = None
    idle_timeout: float | None = None
    last_active: float | None = None
    start: str | None = None
    start_reason: str | None = None
    reason: str | None = None
    problem: dict[str, Any] | None = None
    breaches: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    created_by: str | None = None
    forked_from: str | None = None
    identity: dict[str, Any] | None = None


@dataclass(frozen=True)
class Standing:
    """A sandbox, and the named policies that its network stands on."""

    id: str
    network: dict[str, Any]
    policies_told: dict[str, str]

    @property
    def policies(self) -> list[str]:
        """Their names."""
        names: list[str] = self.network.get("policies", [])
        return names


MOVING = ("pausing", "hibernating", "resuming", "rolling_back")
"""On the way from or to a snapshot: the node has been asked, or is about to be."""
ASLEEP = ("paused", *MOVING)
"""Its guest cannot be reached just now, and will be."""
LIVE = ("starting", "running", *ASLEEP)
"""Has not ended, and is not being ended."""


class Sandboxes:
    """The `sandboxes` and `labels` tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, connection: Transaction, row: SandboxRow) -> None:
        await connection.execute(sandboxes.insert(), vars(row))
        made = {"template": row.template, "from": row.snapshot, "forked_from": row.forked_from}
        granted = [audit.Event(row.org, "secret", name, "granted", {"sandbox": row.id}) for name in row.secrets]
        opened = [_port_event(row, port, public=True) for port in row.public_ports]
        await audit.append(connection, audit.Event(row.org, "sandbox", row.id, row.state, made), *granted, *opened)
        if row.labels:
            values = [{"sandbox_id": row.id, "key": key, "value": value} for key, value in row.labels.items()]
            await connection.execute(labels.insert(), values)

    async def get(self, sandbox_id: str) -> SandboxRow | None:
        rows = await self._select(select(sandboxes).where(sandboxes.c.id == sandbox_id))
        return rows[0] if rows else None

    async def page(
        self,
        org: str,
        states: Sequence[str] = (),
        wanted: Mapping[str, str] | None = None,
        limit: int = 100,
        cursor: str | None = None,
        hibernated: bool | None = None,
    ) -> list[SandboxRow]:
        """Newest first, in these states (all when empty), with all the wanted labels. `hibernated`: of the paused ones
        only those, or only the others."""
        statement = select(sandboxes).where(sandboxes.c.org == org)
        if states:
            statement = statement.where(sandboxes.c.state.in_(states))
        if hibernated is not None:
            paused = sandboxes.c.state.in_(("paused", "resuming"))
            statement = statement.where(~paused | sandboxes.c.hibernated.is_(hibernated))
        for key, value in (wanted or {}).items():
            matching = select(labels.c.sandbox_id).where(labels.c.key == key, labels.c.value == value)
            statement = statement.where(sandboxes.c.id.in_(matching))
        if cursor is not None:
            statement = statement.where(after_cursor(sandboxes, cursor))
        return await self._select(statement.order_by(sandboxes.c.created_at.desc(), sandboxes.c.id.desc()).limit(limit))

    async def in_states(self, *states: str) -> list[SandboxRow]:
        """All of every org in these states."""
        return await self._select(select(sandboxes).where(sandboxes.c.state.in_(states)))

    async def of_forks(self) -> list[SandboxRow]:
        """Those that live, of forks that are not whole."""
        return await self._select(select(sandboxes).where(sandboxes.c.fork.is_not(None), sandboxes.c.state.in_(LIVE)))

    async def forked(self, ids: Sequence[str]) -> None:
        """All of a fork are made: these."""
        async with self._database.write() as connection:
            await connection.execute(update(sandboxes).where(sandboxes.c.id.in_(ids)).values(fork=None))

    async def with_secrets(self, *states: str) -> list[SandboxRow]:
        """All of every org in these states that may use secrets."""
        return await self._select(
            select(sandboxes).where(sandboxes.c.state.in_(states), sandboxes.c.sealed_secrets.is_not(None))
        )

    async def with_volumes(self, org: str | None = None) -> list[SandboxRow]:
        """Those that have volumes and have not ended, of one org or of all."""
        statement = select(sandboxes).where(sandboxes.c.volumes.is_not(None), sandboxes.c.ended_at.is_(None))
        return await self._select(statement if org is None else statement.where(sandboxes.c.org == org))

    async def policies_of(self, connection: Transaction, org: str) -> list[Standing]:
        """What the organisation's sandboxes that have not ended stand on."""
        columns = sandboxes.c.id, sandboxes.c.network, sandboxes.c.policies_told
        statement = select(*columns).where(sandboxes.c.org == org, sandboxes.c.state.in_(LIVE))
        rows = (await connection.execute(statement.order_by(sandboxes.c.id))).all()
        return [Standing(row.id, row.network, row.policies_told) for row in rows]

    async def overdue(self, now: float) -> list[SandboxRow]:
        """Those whose lifetime is over, and that live."""
        return await self._select(select(sandboxes).where(sandboxes.c.state.in_(LIVE), sandboxes.c.deadline <= now))

    async def abandoned(self) -> list[SandboxRow]:
        """Those that live though their task has ended, and nobody wanted to keep them."""
        ended = select(tasks.c.sandbox_id).where(tasks.c.step == "done")
        return await self._select(
            select(sandboxes).where(sandboxes.c.state.in_(LIVE), sandboxes.c.keep.is_(False), sandboxes.c.id.in_(ended))
        )

    async def may_idle(self) -> list[SandboxRow]:
        """Those that run, and are to be paused when nobody uses them."""
        return await self._select(
            select(sandboxes).where(sandboxes.c.state == "running", sandboxes.c.idle_timeout.is_not(None))
        )

    async def paused_since(self, sandbox_ids: Sequence[str]) -> dict[str, float]:
        """Of these, those that are paused, and since when."""
        statement = select(sandboxes.c.id, sandboxes.c.paused_at).where(
            sandboxes.c.id.in_(sandbox_ids), sandboxes.c.paused_at.is_not(None)
        )
        async with self._database.read() as connection:
            return {row.id: row.paused_at for row in (await connection.execute(statement)).all()}

    async def change(self, sandbox_id: str, version: int, **values: Any) -> bool:
        """Set columns if the row still has this version; the version rises. Whether it was so."""
        async with self._database.write() as connection:
            return await self.change_in(connection, sandbox_id, version, **values)

    async def change_in(self, connection: Transaction, sandbox_id: str, version: int, **values: Any) -> bool:
        """`change` inside a transaction."""
        same: list[ColumnElement[bool]] = [sandboxes.c.id == sandbox_id, sandboxes.c.version == version]
        statement = update(sandboxes).where(*same).returning(sandboxes.c.org)
        org = (await connection.execute(statement, values | {"version": version + 1})).scalar_one_or_none()
        if org is not None and "state" in values:
            why = {name: values[name] for name in ("reason", "snapshot", "taking") if values.get(name)}
            await audit.append(connection, audit.Event(org, "sandbox", sandbox_id, values["state"], why))
        return org is not None

    async def note(self, connection: Transaction, sandbox_id: str, **values: Any) -> None:
        """Set columns that are no state (usage, breaches), whatever the version."""
        statement = update(sandboxes).where(sandboxes.c.id == sandbox_id).values(**values)
        if "network" not in values:
            await connection.execute(statement)
            return
        org = (await connection.execute(statement.returning(sandboxes.c.org))).scalar_one_or_none()
        if org is not None:
            await audit.append(connection, audit.Event(org, "policy", sandbox_id, "in force", values["network"]))

    async def intend(self, connection: Transaction, sandbox_id: str, **values: Any) -> None:
        """Set columns to what is about to be true. `note` is for when it is."""
        await connection.execute(update(sandboxes).where(sandboxes.c.id == sandbox_id).values(**values))

    async def public_ports(self, sandbox_ids: Sequence[str]) -> dict[str, list[int]]:
        """Of these sandboxes, as far as there are such."""
        statement = select(sandboxes.c.id, sandboxes.c.public_ports).where(sandboxes.c.id.in_(sandbox_ids))
        async with self._database.read() as connection:
            return {row.id: row.public_ports for row in (await connection.execute(statement)).all()}

    async def set_public_ports(self, connection: Transaction, row: SandboxRow, ports: Sequence[int]) -> None:
        """These are public from now on, in place of those of the row, which is locked."""
        await self.intend(connection, row.id, public_ports=list(ports))
        changed = sorted(set(ports) ^ set(row.public_ports))
        await audit.append(connection, *(_port_event(row, port, port in ports) for port in changed))

    async def owner(self, connection: Transaction, sandbox_id: str) -> str | None:
        """The organisation whose it is."""
        statement = select(sandboxes.c.org).where(sandboxes.c.id == sandbox_id)
        return (await connection.execute(statement)).scalar_one_or_none()

    async def lock(self, connection: Transaction, sandbox_id: str) -> SandboxRow | None:
        """The row, locked until the end of the transaction."""
        statement = select(sandboxes).where(sandboxes.c.id == sandbox_id).with_for_update()
        row = (await connection.execute(statement)).mappings().one_or_none()
        return SandboxRow(**row) if row is not None else None

    async def ended_before(self, when: float, limit: int = 100) -> list[SandboxRow]:
        """Records old enough to be forgotten."""
        statement = select(sandboxes).where(sandboxes.c.ended_at < when, sandboxes.c.state.in_(("stopped", "failed")))
        return await self._select(statement.limit(limit))

    async def forget(self, sandbox_id: str) -> None:
        """Delete the record with its labels, tasks and events."""
        async with self._database.write() as connection:
            await connection.execute(delete(sandboxes).where(sandboxes.c.id == sandbox_id))

    async def _select(self, statement: Any) -> list[SandboxRow]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).mappings().all()
        return [SandboxRow(**row) for row in rows]


def _port_event(row: SandboxRow, port: int, public: bool) -> audit.Event:
    return audit.Event(row.org, "port", row.id, "public" if public else "private", {"port": port})
