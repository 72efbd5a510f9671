"""The audit log: records in a chain of hashes, one chain an organisation, and signed heads of it.

Each record has the hash of the one before, and a hash over all of itself: one that was changed, removed or moved shows.
A head is the newest record's number and hash, signed: who can write to the database but has not the server's key cannot
make the chain anew. What is needed to check all that is here, without the server.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import Field

from hutch.model.common import Model

GENESIS = "0" * 64
"""What stands for the hash before the first record."""
TRIMMED = "audit.trimmed"
"""Action of the record that says that older ones were dropped: {through, hash, signature}."""


class AuditRecord(Model):
    """One thing that was done, or was about to be."""

    type: Literal["record"] = "record"
    org: str
    seq: int = Field(description="Rises by one.")
    time: str = Field(description="UTC, to the millisecond.")
    actor: str = Field(
        description="An API key's id, a sandbox's id, `token:` and the id of a sandbox or volume, or `hutch`."
    )
    action: str = Field(description="Such as `call`, `sandbox`, `connection`.")
    subject: str = Field(description="What it was done to: an id, or empty.")
    outcome: str = Field(description="`begun`, a status of HTTP, or the new state.")
    request: str = Field(description="The request's id (`X-Request-Id`), which all records of one call share.")
    detail: dict[str, Any] = Field(description="What there is to say, by action.")
    prev: str = Field(description="`hash` of the record before.")
    hash: str = Field(description="SHA-256 of all the rest, as JSON with sorted keys and no spaces, in ASCII.")

    def digest(self) -> str:
        """What `hash` must be."""
        return digest_of(self.model_dump(exclude={"hash", "type"}))


class AuditHead(Model):
    """A head of the chain, signed."""

    type: Literal["head"] = "head"
    org: str
    seq: int
    hash: str
    time: str
    signature: str = Field(description="Ed25519, base64, over all the rest, as JSON like that of records.")

    def signed(self) -> bytes:
        """What the signature is over."""
        return canonical(self.model_dump(exclude={"signature", "type"}))


class AuditKey(Model):
    """The key that heads are signed with."""

    type: Literal["key"] = "key"
    public: str = Field(description="Ed25519, base64.")


class AuditPage(Model):
    """`GET /v1/audit`."""

    records: list[AuditRecord]
    next: int = Field(description="Give it as `after` to read on.")


def dropped(org: str, through: int, hash: str) -> bytes:
    """What the signature is over of a record that says that older ones, up to this one, were dropped."""
    return canonical({"action": TRIMMED, "org": org, "through": through, "hash": hash})


def canonical(value: dict[str, Any]) -> bytes:
    """The one way in which a value is written down to be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(fields: dict[str, Any]) -> str:
    """The hash of a record's fields."""
    return hashlib.sha256(canonical(fields)).hexdigest()


class Verifier:
    """Reads an export from its begin to its end, and finds what is wrong with it. `pinned`: the key that heads must be
    signed with; else the export's own is believed. `known`: a head of an earlier export, which must be in this one."""

    def __init__(self, pinned: str | None = None, known: AuditHead | None = None) -> None:
        self.records = self.heads = 0
        self.key: str | None = pinned
        self.first: AuditRecord | None = None
        self.last: AuditRecord | None = None
        self.head: AuditHead | None = None
        self._pinned = pinned
        self._known = known
        self._trims: list[tuple[Any, Any]] = []

    def read(self, lines: Iterable[dict[str, Any]]) -> Iterator[str]:
        """What is wrong, in words, as it is found."""
        for line in lines:
            kind = line.get("type")
            if kind == "record":
                yield from self._record(AuditRecord.model_validate(line))
            elif kind == "head":
                yield from self._head(AuditHead.model_validate(line))
            elif kind == "key":
                yield from self._key(AuditKey.model_validate(line).public)
            else:
                yield f"a line of a kind that is not known: {str(kind)[:40]}"
        yield from self._begin()
        yield from self._end()

    def _record(self, record: AuditRecord) -> Iterator[str]:
        before = self.last
        if record.digest() != record.hash:
            yield f"record {record.seq} was changed: it does not have the hash that it names"
        if before is None:
            self.first = record
        elif record.seq > before.seq + 1:
            yield f"records {before.seq + 1} to {record.seq - 1} are missing"
        elif record.seq <= before.seq:
            yield f"record {record.seq} stands after {before.seq}"
        elif record.prev != before.hash:
            yield f"record {record.seq} does not follow on {before.seq}: one of them was put in another's place"
        if record.action == TRIMMED:
            yield from self._trim(record)
        if self._known is not None and record.seq == self._known.seq and record.hash != self._known.hash:
            yield f"record {record.seq} is another than in the earlier export"
        self.last, self.records = record, self.records + 1

    def _trim(self, record: AuditRecord) -> Iterator[str]:
        through, hash, signature = (record.detail.get(name) for name in ("through", "hash", "signature"))
        said = dropped(record.org, through, hash) if isinstance(through, int) and isinstance(hash, str) else b""
        if self.key is None or not signed_with(self.key, str(signature), said):
            yield f"record {record.seq} says that older ones were dropped, and is not signed with this server's key"
        else:
            self._trims.append((through, hash))

    def _head(self, head: AuditHead) -> Iterator[str]:
        self.heads, self.head, seq = self.heads + 1, head, self.last.seq if self.last is not None else 0
        if self.key is None:
            yield f"the head at {head.seq} comes before the key that it was signed with"
        elif not signed_with(self.key, head.signature, head.signed()):
            yield f"the head at {head.seq} is not signed with this server's key"
        elif head.seq > seq:
            yield f"records {seq + 1} to {head.seq} are missing: a signed head names the last of them"
        elif head.seq < seq:
            yield f"the head at {head.seq} stands after record {seq}"
        elif self.last is not None and head.hash != self.last.hash:
            yield f"record {head.seq} is not the one that was signed as the head"

    def _key(self, public: str) -> Iterator[str]:
        if self._pinned is not None and public != self._pinned:
            yield "the heads are signed with another key than the one that was given"
        self.key = self._pinned or public

    def _begin(self) -> Iterator[str]:
        first = self.first
        if first is None:
            return
        if first.seq == 1 and first.prev != GENESIS:
            yield "record 1 is not the first one of a chain"
        if first.seq > 1 and (first.seq - 1, first.prev) not in self._trims:
            yield f"records 1 to {first.seq - 1} are missing, and no record says that they were dropped"

    def _end(self) -> Iterator[str]:
        last = self.last.seq if self.last is not None else 0
        if last and (self.head is None or self.head.seq < last):
            yield "its end is not signed"
        if self._known is not None and self._known.seq > last:
            yield f"records {last + 1} to {self._known.seq} are missing: they were in the earlier export"


def signed_with(public: str, signature: str, what: bytes) -> bool:
    """Whether this is a signature over it, by the key that this one is the public half of (both in base64)."""
    try:
        Ed25519PublicKey.from_public_bytes(b64decode(public)).verify(b64decode(signature), what)
    except (InvalidSignature, ValueError):
        return False
    return True
