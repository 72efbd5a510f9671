"""The audit log's tables. Records are only ever added, in a chain (see `hutch.model.audit`); the oldest are dropped
when they are past their time, and a record says so.

`append` is for what is done in a transaction of its own: it is recorded in that one, or neither is. `record` is for all
else: it returns when the record is durable. Records that wait for it together are written together.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Result, Select, delete, func, select

from hutch.model.audit import GENESIS, TRIMMED, AuditHead, AuditRecord, canonical, digest_of, dropped
from hutch.store.engine import Database, Transaction
from hutch.store.sqlite import plain
from hutch.store.tables import audit_heads, audit_records

OURSELVES = "hutch"
MAX_DETAIL = 8192
_MAX_TEXT = 512
_MAX_ITEMS, _MAX_DEPTH = 64, 4
_TRIM_AT_ONCE = 10_000
_LEFT_OUT = b'{"bytes":'


@dataclass(frozen=True)
class Acting:
    """On whose behalf the running code works."""

    actor: str
    request: str = ""


_BY_OURSELVES = Acting(OURSELVES)
_acting: ContextVar[Acting] = ContextVar("acting", default=_BY_OURSELVES)


@contextmanager
def acting(actor: str, request: str = "") -> Iterator[None]:
    """All that is recorded within is this actor's doing; also what tasks do that are made within."""
    token = _acting.set(Acting(actor, request))
    try:
        yield
    finally:
        _acting.reset(token)


def acting_now() -> Acting:
    """On whose behalf the caller works."""
    return _acting.get()


@dataclass(frozen=True)
class Event:
    """What is to be recorded. By default it is the doing of whoever `acting` names."""

    org: str
    action: str
    subject: str
    outcome: str
    detail: dict[str, Any] = field(default_factory=dict)
    by: Acting = field(default_factory=_acting.get)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


async def append(connection: Transaction, *events: Event) -> None:
    """Record these as part of a transaction."""
    await connection.run_sync(lambda sync: _append(sync, events))


class Audit:
    """The `audit_records` and `audit_heads` tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def record(self, event: Event) -> None:
        """Write it; it outlives us when this returns. Never inside a transaction: it is one."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await done

    async def page(
        self, org: str, after: int, limit: int, *, through: int | None = None, **equal: str | None
    ) -> list[AuditRecord]:
        """The oldest behind `after`, up to `through`, whose columns are as `equal` says."""
        statement = select(audit_records).where(audit_records.c.org == org, audit_records.c.seq > after)
        if through is not None:
            statement = statement.where(audit_records.c.seq <= through)
        for name, value in equal.items():
            if value is not None:
                statement = statement.where(audit_records.c[name] == value)
        async with self._database.read() as connection:
            found = await connection.execute(statement.order_by(audit_records.c.seq).limit(limit))
            return [AuditRecord.model_validate(dict(row)) for row in found.mappings().all()]

    async def heads(self, org: str) -> list[AuditHead]:
        """The signed heads, oldest first."""
        statement = select(audit_heads).where(audit_heads.c.org == org).order_by(audit_heads.c.seq)
        async with self._database.read() as connection:
            return [AuditHead.model_validate(dict(row)) for row in (await connection.execute(statement)).mappings()]

    async def unsigned(self) -> list[tuple[str, int, str]]:
        """Organisation, number and hash of each chain's newest record, where no head names it. Steps from one to the
        next in the index: what there is of each is not read."""
        found, org = [], ""
        records, heads = audit_records.c, audit_heads.c
        async with self._database.read() as connection:
            while (org := await _only(connection, select(func.min(records.org)).where(records.org > org))) is not None:
                seq, digest = await _tip(connection, org)
                signed = await _only(connection, select(func.max(heads.seq)).where(heads.org == org))
                if signed is None or signed < seq:
                    found.append((org, seq, digest))
        return found

    async def add_head(self, head: AuditHead) -> None:
        """Keep a head that was signed; no error when there is one at its place. Of one hour the last is kept: it
        vouches for all that the others did."""
        of_org, column = audit_heads.c.org == head.org, audit_heads.c
        async with self._database.write() as connection:
            if (await connection.execute(select(column.seq).where(of_org, column.seq == head.seq))).first() is None:
                await connection.execute(audit_heads.insert().values(**head.model_dump(exclude={"type"})))
            older = column.time.startswith(head.time[:13], autoescape=True) & (column.seq < head.seq)
            await connection.execute(delete(audit_heads).where(of_org, older))

    async def trim(self, before: datetime, sign: Callable[[bytes], str]) -> int:
        """Drop records from before then, up to a signed head; how many. A record that says so is added with it, which
        `sign` gives the signature of."""
        horizon, gone = _stamp(before), 0
        async with self._database.read() as connection:
            orgs = (await connection.execute(select(audit_heads.c.org).distinct())).scalars().all()
        for org in orgs:
            async with self._database.write() as connection:
                gone += await _trim(connection, org, horizon, sign)
        return gone

    async def close(self) -> None:
        """Let what is being written end."""
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write_all(self, events: Sequence[Event]) -> None:
        if self._database.sqlite:
            return await self._database.write_at_once(lambda connection: _append_plain(connection, events))
        async with self._database.write() as connection:
            await append(connection, *events)

    async def _write(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                await self._write_all([event for event, _ in waiting])
            except Exception as error:
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(error)
                continue
            for _, done in waiting:
                if not done.done():
                    done.set_result(None)


def _append(connection: Connection, events: Sequence[Event]) -> None:
    if connection.dialect.name == "sqlite":
        return _append_plain(plain(connection), events)
    for org in sorted({event.org for event in events}):
        seq, prev = _tip_of(connection.execute(_newest(org)))
        rows = []
        for event in events:
            if event.org == org:
                seq += 1
                rows.append(_row(event, seq, prev))
                prev = rows[-1]["hash"]
        connection.execute(audit_records.insert(), rows)


def _append_plain(connection: sqlite3.Connection, events: Sequence[Event]) -> None:
    """The same as SQLite itself is spoken to: in a fifth of the time."""
    tips: dict[str, tuple[int, str]] = {}
    rows = []
    for event in events:
        seq, prev = tips.get(event.org) or connection.execute(_TIP, (event.org,)).fetchone() or (0, GENESIS)
        row = _row(event, seq + 1, prev)
        tips[event.org] = seq + 1, row["hash"]
        rows.append(row | {"detail": json.dumps(row["detail"])})
    connection.executemany(_INSERT, rows)


async def _only(connection: Transaction, statement: Any) -> Any:
    return (await connection.execute(statement)).scalar_one_or_none()


async def _tip(connection: Transaction, org: str) -> tuple[int, str]:
    return _tip_of(await connection.execute(_newest(org)))


def _newest(org: str) -> Select[tuple[int, str]]:
    statement = select(audit_records.c.seq, audit_records.c.hash).where(audit_records.c.org == org)
    return statement.order_by(audit_records.c.seq.desc()).limit(1)


def _tip_of(found: Result[tuple[int, str]]) -> tuple[int, str]:
    row = found.first()
    return (row.seq, row.hash) if row is not None else (0, GENESIS)


_COLUMNS = [column.name for column in audit_records.columns]
_TIP = f"SELECT seq, hash FROM {audit_records.name} WHERE org = ? ORDER BY seq DESC LIMIT 1"  # noqa: S608
_INSERT = (
    f"INSERT INTO {audit_records.name} ({', '.join(_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join(':' + name for name in _COLUMNS)})"
)


async def _trim(connection: Transaction, org: str, horizon: str, sign: Callable[[bytes], str]) -> int:
    of_org, records = audit_records.c.org == org, audit_records.c
    signed = select(func.max(audit_heads.c.seq)).where(audit_heads.c.org == org).scalar_subquery()
    first = (await connection.execute(select(func.min(records.seq)).where(of_org))).scalar_one_or_none() or 0
    old = select(records.seq, records.hash).where(
        of_org, records.time < horizon, records.seq < signed, records.seq < first + _TRIM_AT_ONCE
    )
    last = (await connection.execute(old.order_by(records.seq.desc()).limit(1))).first()
    if last is None:
        return 0
    detail = {"through": last.seq, "hash": last.hash, "signature": sign(dropped(org, last.seq, last.hash))}
    await append(connection, Event(org, TRIMMED, org, "dropped", detail))
    await connection.execute(delete(audit_heads).where(audit_heads.c.org == org, audit_heads.c.seq <= last.seq))
    return (await connection.execute(delete(audit_records).where(of_org, records.seq <= last.seq))).rowcount


def _row(event: Event, seq: int, prev: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "org": event.org,
        "seq": seq,
        "time": _stamp(event.time),
        "actor": event.by.actor,
        "action": event.action,
        "subject": event.subject[:64],
        "outcome": event.outcome[:64],
        "request": event.by.request,
        "detail": _bounded(event.detail),
        "prev": prev,
    }
    return row | {"hash": digest_of(row)}


def _stamp(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bounded(detail: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from a database: JSON, without what one of them cannot keep, and not too much of it. Of what is
    too much there are size and hash: who pads it hides nothing else, and it can be told what it was."""
    kept: dict[str, Any] = json.loads(json.dumps(_plain(detail), default=str))
    body = kept.get("body")
    while len(canonical(kept)) > MAX_DETAIL:
        fields = [(at, name) for at in (kept, body) if isinstance(at, dict) for name in at if at[name] is not body]
        at, name = max(fields, key=lambda field: len(_written(field[0][field[1]])))
        if _written(at[name]).startswith(_LEFT_OUT):
            return {"left_out": sorted(kept)[:16], "sha256": sha256(canonical(kept)).hexdigest()}
        written = _written(at[name])
        at[name] = {"bytes": len(written), "sha256": sha256(written).hexdigest()}
    return kept


def _written(value: Any) -> bytes:
    return canonical({"": value})[4:-1]


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            digest = sha256(value.encode("utf-8", "replace")).hexdigest()
            value = f"{value[:_MAX_TEXT]}… ({len(value)} characters, SHA-256 {digest})"
        return value.encode("utf-8", "replace").decode().replace("\0", "�")
    if isinstance(value, bool | int | None):
        return value
    if depth < _MAX_DEPTH and isinstance(value, dict):
        kept = {_plain(str(key)): _plain(each, depth + 1) for key, each in list(value.items())[:_MAX_ITEMS]}
        return kept | ({"…": _all_of(value)} if len(value) > _MAX_ITEMS else {})
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        kept_items = [_plain(each, depth + 1) for each in value[:_MAX_ITEMS]]
        return kept_items + ([_all_of(value)] if len(value) > _MAX_ITEMS else [])
    return _plain(str(value))


def _all_of(value: Any) -> str:
    """Stands for the items that are left out."""
    return f"… ({len(value)} in all, SHA-256 {sha256(json.dumps(value, default=str).encode()).hexdigest()})"
