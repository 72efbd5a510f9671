"""API keys: making, checking, listing, revoking."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy import func, select

from hutch.errors import Conflict, NotFound, Unauthorized
from hutch.identity.token import Token, new_token, parse_token
from hutch.model import ApiKey, CreateKey, NewApiKey
from hutch.store import DEFAULT_ORG, KeyRecord, Store
from hutch.store.tables import keys

CACHE_SECONDS = 2.0
"""How long another process's revocation may go unnoticed. Our own is noticed at once."""
_CACHE_SIZE = 4096
_TOUCH_SECONDS = 60.0
_NO_HASH = "0" * 64

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Caller:
    """Who makes a call."""

    key_id: str
    org: str


class KeyRing:
    """The keys of this installation."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._cache: OrderedDict[str, tuple[float, KeyRecord | None]] = OrderedDict()
        self._changes = 0
        self._touched: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def check(self, text: str | None) -> Caller:
        """The caller that the key stands for; `Unauthorized` for a missing, malformed, unknown, wrong, revoked or
        expired one. The same work is done whether the id is known or not; what is wrong with a key is told only to
        one who has the whole of it."""
        if not text:
            raise Unauthorized("this call needs an API key")
        token = parse_token(text)
        if token is None:
            raise Unauthorized("this is not an API key of Hutch: those look like hk_<id>_<secret>")
        record = await self._find(token.key_id)
        if not hmac.compare_digest(token.hash, record.hash if record else _NO_HASH) or record is None:
            raise Unauthorized("the API key is not valid")
        self._check_live(record)
        self._touch(record.id)
        return Caller(record.id, record.org)

    async def create(self, request: CreateKey, *, org: str = DEFAULT_ORG) -> NewApiKey:
        """A new key; the answer is the only place where it is ever shown."""
        token, now = new_token(), self._clock()
        expires_at = now + request.expires_in if request.expires_in else None
        record = _record(token, org, request.name, now, expires_at)
        await self._store.keys.add(record)
        self._forget(record.id)  # someone may have asked for it before it was there
        return NewApiKey(**_shown(record).model_dump(), key=token.text)

    async def create_first(self, deliver: Callable[[str], None]) -> bool:
        """Make the first key where there has never been one, and hand it over. Several servers that start at once
        make one between them: the database's write lock is held from the question to the answer.

        It is handed over before it is committed: a crash between the two leaves a key that does not work and makes
        another at the next start, where the other order would leave one that nobody has ever seen.
        """
        token = new_token()
        record = _record(token, DEFAULT_ORG, "first key", self._clock(), None)
        async with self._store.database.write() as connection:
            if (await connection.execute(select(func.count()).select_from(keys))).scalar_one():
                return False
            await self._store.keys.add_in(connection, record)
            deliver(token.text)
        return True

    async def list(self, *, org: str = DEFAULT_ORG) -> list[ApiKey]:
        """All keys, oldest first, revoked ones too."""
        return [_shown(record) for record in await self._store.keys.of_org(org)]

    async def revoke(self, key_id: str, *, org: str = DEFAULT_ORG) -> None:
        """End a key's life; no error when that has happened already. The last one that works cannot be revoked."""
        records = {record.id: record for record in await self._store.keys.of_org(org)}
        if key_id not in records:
            raise NotFound(f"there is no key {key_id}")
        now = self._clock()
        if [record.id for record in records.values() if _live(record, now)] == [key_id]:
            raise Conflict("this is the last key that works", hint="Make another one first: `POST /v1/keys`.")
        await self._store.keys.revoke(key_id, now)
        self._forget(key_id)

    async def close(self) -> None:
        """Let what is being written in the background end."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _find(self, key_id: str) -> KeyRecord | None:
        now = time.monotonic()
        cached = self._cache.get(key_id)
        if cached and now - cached[0] < CACHE_SECONDS:
            return cached[1]
        changes = self._changes
        record = await self._store.keys.get(key_id)
        if changes == self._changes:  # else what we have read may be older than a revocation
            self._cache[key_id] = (now, record)
            self._cache.move_to_end(key_id)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        return record

    def _forget(self, key_id: str) -> None:
        self._changes += 1
        self._cache.pop(key_id, None)

    def _check_live(self, record: KeyRecord) -> None:
        if record.revoked_at is not None:
            raise Unauthorized("the API key has been revoked", hint="Ask for a new one, or use another.")
        if not _live(record, self._clock()):
            raise Unauthorized("the API key has expired", hint="Make a new one with a key that works: `POST /v1/keys`.")

    def _touch(self, key_id: str) -> None:
        """Note its use, at most once a minute and off the call's path."""
        now = time.monotonic()
        if now - self._touched.get(key_id, -_TOUCH_SECONDS) < _TOUCH_SECONDS:
            return
        self._touched[key_id] = now
        task = asyncio.create_task(self._store.keys.touch(key_id, self._clock()))
        self._tasks.add(task)
        task.add_done_callback(self._touched_done)

    def _touched_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("the use of a key was not noted", error=str(error))


def _record(token: Token, org: str, name: str, now: float, expires_at: float | None) -> KeyRecord:
    return KeyRecord(token.key_id, org, name, token.prefix, token.hash, now, expires_at)


def _live(record: KeyRecord, now: float) -> bool:
    return record.revoked_at is None and (record.expires_at is None or now < record.expires_at)


def _shown(record: KeyRecord) -> ApiKey:
    return ApiKey(
        id=record.id,
        name=record.name,
        prefix=record.prefix,
        created_at=datetime.fromtimestamp(record.created_at, UTC),
        expires_at=_time(record.expires_at),
        last_used_at=_time(record.last_used_at),
        revoked_at=_time(record.revoked_at),
    )


def _time(value: float | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value, UTC)
