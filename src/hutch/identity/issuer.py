"""The OpenID Connect issuer of sandboxes' tokens: its keys in the database, sealed, and their turns.

At any time one key signs, and the next one is published already: verifiers that keep the published keys for a while
know it when its turn comes. One whose turn is over stays published for a grace time, so that its tokens hold until
they expire.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from hutch.identity import signing
from hutch.model import Issuer as IssuerInfo
from hutch.model import SigningKey
from hutch.store import DEFAULT_ORG, Store, audit
from hutch.store.identity_keys import IdentityKeyRow

log = structlog.get_logger(__name__)


class Sealing(NamedTuple):
    """How private keys are encrypted, and opened again: each with the value, and what it belongs to."""

    seal: Callable[[str, str], bytes]
    unseal: Callable[[bytes, str], str]


class Issuer:
    """Signs tokens, publishes keys, changes them."""

    def __init__(
        self,
        store: Store,
        sealing: Sealing,
        *,
        url: str,
        token_seconds: float,
        key_seconds: float,
        grace: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._sealing = sealing
        self.url = url.rstrip("/")
        self._token_seconds = token_seconds
        self._key_seconds = key_seconds
        self._grace = grace
        self._clock = clock
        self._making = asyncio.Lock()
        self._loaded: tuple[str, RSAPrivateKey] | None = None

    async def sign(self, claims: dict[str, Any], audience: str) -> tuple[str, float]:
        """A token with these claims for this audience, and when it expires (Unix seconds)."""
        key = _current(await self._keys())
        assert key is not None  # of keys that were made, one signs
        secret = await asyncio.to_thread(self._secret, key)
        now = int(self._clock())
        expires = now + int(self._token_seconds)
        times = {"iat": now, "nbf": now, "exp": expires, "jti": uuid4().hex}
        whole = {"iss": self.url, "aud": audience, **claims, **times}
        return await asyncio.to_thread(signing.sign, whole, secret, key.id), float(expires)

    async def verify(self, token: str) -> dict[str, Any] | None:
        """What a token says that was signed here, holds now, and whose key does; None of any other."""
        key_id, now = signing.key_of(token), self._clock()
        keys = {row.id: row for row in await self._store.identity_keys.all()}
        row = keys.get(key_id or "")
        if row is None or (row.gone_at is not None and row.gone_at <= now):
            return None
        return signing.verify(token, row.public, self.url, now)

    async def published(self) -> dict[str, Any]:
        """The JSON Web Key Set."""
        now = self._clock()
        live = [row for row in await self._keys() if row.gone_at is None or row.gone_at > now]
        return {"keys": [{"kid": row.id, **row.public} for row in live]}

    def configuration(self) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 3), as far as it applies: nobody logs in here,
        and so there is nothing to lead a browser to."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/.well-known/jwks.json",
            "introspection_endpoint": f"{self.url}/identity/introspect",
            "introspection_endpoint_auth_methods_supported": ["none"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [signing.ALGORITHM],
            "claims_supported": [
                *("iss", "sub", "aud", "exp", "iat", "nbf", "jti", "org", "app", "user", "created_by", "task"),
                *("sandbox", "parent", "template", "template_digest", "repositories", "permissions"),
            ],
        }

    async def info(self) -> IssuerInfo:
        """The issuer, for its operator."""
        return IssuerInfo(
            issuer=self.url,
            jwks_url=f"{self.url}/.well-known/jwks.json",
            token_seconds=self._token_seconds,
            keys=[_shown(row) for row in sorted(await self._keys(), key=_turn_of)],
        )

    async def rotate(self, grace: float | None = None) -> None:
        """The next key signs from now on, and one more is made. Tokens of the old one hold for `grace` seconds more."""
        await self._keys()
        made = await self._make()
        async with self._store.database.write() as connection:
            await self._turn(connection, made, self._grace if grace is None else grace)

    async def rotate_when_due(self) -> bool:
        """`rotate`, where the key that signs has done so for long enough; whether it was so. None is made for that."""
        if not _due(await self._store.identity_keys.all(), self._clock(), self._key_seconds):
            return False
        made = await self._make()
        async with self._store.database.write() as connection:
            if not _due(await self._store.identity_keys.all_in(connection), self._clock(), self._key_seconds):
                return False  # another process was quicker
            await self._turn(connection, made, self._grace)
        return True

    async def _turn(self, connection: Any, made: IdentityKeyRow, grace: float) -> None:
        keys, now = self._store.identity_keys, self._clock()
        await keys.forget(connection, now)
        rows = await keys.all_in(connection)
        for row in rows:
            if row.retired_at is None and row.signs_since is not None:
                await keys.note(connection, row.id, retired_at=now, gone_at=now + grace)
            elif row.signs_since is None:
                await keys.note(connection, row.id, signs_since=now)
            elif grace == 0 and row.gone_at is not None:
                await keys.note(connection, row.id, gone_at=min(now, row.gone_at))
        await keys.insert(connection, made)
        await audit.append(
            connection, audit.Event(DEFAULT_ORG, "identity_key", made.id, "rotated", {"grace": str(grace)})
        )
        log.info("identity keys changed", next=made.id, grace=grace)

    async def _keys(self) -> list[IdentityKeyRow]:
        """All of them; the first two are made when they are asked for first."""
        if rows := await self._store.identity_keys.all():
            return rows
        async with self._making:
            first, second = await self._make(), await self._make()
            async with self._store.database.write() as connection:
                if rows := await self._store.identity_keys.all_in(connection):
                    return rows
                await self._store.identity_keys.insert(connection, first)
                await self._store.identity_keys.note(connection, first.id, signs_since=first.created_at)
                await self._store.identity_keys.insert(connection, second)
                return await self._store.identity_keys.all_in(connection)

    async def _make(self) -> IdentityKeyRow:
        pem, public = await asyncio.to_thread(signing.make_key)
        key_id = _thumbprint(public)
        return IdentityKeyRow(key_id, self._sealing.seal(pem, _context(key_id)), public, self._clock())

    def _secret(self, row: IdentityKeyRow) -> RSAPrivateKey:
        if self._loaded is None or self._loaded[0] != row.id:
            self._loaded = row.id, signing.load_key(self._sealing.unseal(row.sealed, _context(row.id)))
        return self._loaded[1]


def _current(rows: list[IdentityKeyRow]) -> IdentityKeyRow | None:
    signing_now = [row for row in rows if row.signs_since is not None and row.retired_at is None]
    return signing_now[-1] if signing_now else None


def _turn_of(row: IdentityKeyRow) -> tuple[float, float]:
    return row.signs_since or math.inf, row.retired_at or math.inf


def _due(rows: list[IdentityKeyRow], now: float, key_seconds: float) -> bool:
    current = _current(rows)
    return current is not None and current.signs_since is not None and now - current.signs_since >= key_seconds


def _thumbprint(public: dict[str, Any]) -> str:
    """RFC 7638."""
    canonical = json.dumps({name: public[name] for name in ("e", "kty", "n")}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()


def _context(key_id: str) -> str:
    return f"identity_keys/{key_id}"


def _shown(row: IdentityKeyRow) -> SigningKey:
    state = "next" if row.signs_since is None else "current" if row.retired_at is None else "retired"
    return SigningKey(
        id=row.id,
        state=state,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        signs_since=_time(row.signs_since),
        retired_at=_time(row.retired_at),
        gone_at=_time(row.gone_at),
    )


def _time(value: float | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value, UTC)
