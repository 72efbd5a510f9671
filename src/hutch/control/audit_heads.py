"""The heads of the audit log that were signed last, in a file beside the master key. Who can write to the database and
nothing else cannot have a chain signed that does not go on from them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from hutch.model.audit import GENESIS, AuditHead, AuditRecord, signed_with
from hutch.secrets.vault import replace_file
from hutch.store.store import Store

_PAGE = 1000


class NotItsChain(Exception):
    """What is in the database does not go on from what was signed."""


class SignedHeads:
    """Of one server. `public`: the key they are signed with."""

    def __init__(self, path: Path, store: Store, public: str) -> None:
        self._path = path
        self._store = store
        self._public = public
        self._heads: dict[str, AuditHead] | None = None

    async def last(self, org: str) -> AuditHead | None:
        """The one signed last, as far as this server knows. Where it has no file (yet), the newest good one that the
        database has."""
        heads = await self._read()
        if org not in heads:
            stored = await self._store.audit.heads(org)
            return next((each for each in reversed(stored) if self._good(each)), None)
        return heads[org]

    async def keep(self, head: AuditHead) -> None:
        """It is the last one from here on; it outlasts a power cut when this returns."""
        heads = await self._read()
        heads[head.org] = head
        text = json.dumps({org: each.model_dump(exclude={"type"}) for org, each in sorted(heads.items())}, indent=1)
        await asyncio.to_thread(replace_file, self._path, text.encode())

    async def check(self, org: str, through: int, digest: str) -> None:
        """The records from the last head up to `through`, which has this hash, are a chain that goes on from it. Raises
        `NotItsChain`."""
        last = await self.last(org)
        seq, hash = (last.seq, last.hash) if last is not None else (0, GENESIS)
        if seq > through:
            raise NotItsChain(f"records {through + 1} to {seq} of {org} are missing: they were signed")
        while seq < through:
            page = await self._store.audit.page(org, seq, _PAGE, through=through)
            for record in page:
                _follow(record, seq, hash)
                seq, hash = record.seq, record.hash
            if not page:
                raise NotItsChain(f"records {seq + 1} to {through} of {org} are missing")
        if hash != digest:
            raise NotItsChain(f"record {seq} of {org} is another than the one that was signed")

    def _good(self, head: AuditHead) -> bool:
        return signed_with(self._public, head.signature, head.signed())

    async def _read(self) -> dict[str, AuditHead]:
        if self._heads is None:
            try:
                kept = json.loads(await asyncio.to_thread(self._path.read_bytes))
            except FileNotFoundError:
                kept = {}
            self._heads = {org: AuditHead.model_validate(head) for org, head in kept.items()}
        return self._heads


def _follow(record: AuditRecord, seq: int, hash: str) -> None:
    if (record.seq, record.prev) != (seq + 1, hash):
        raise NotItsChain(f"record {record.seq} of {record.org} does not go on from record {seq}, which was signed")
    if record.digest() != record.hash:
        raise NotItsChain(f"record {record.seq} of {record.org} was changed")
