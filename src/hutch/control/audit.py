"""The audit log, as the server keeps it: signed heads at intervals, calls from before they are carried out, exports."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hutch.control.audit_heads import NotItsChain, SignedHeads
from hutch.control.context import Context
from hutch.model.audit import AuditHead, AuditKey, AuditPage, AuditRecord
from hutch.store.audit import Acting, Event

log = structlog.get_logger("hutch.control")

SIGN_SECONDS = 60.0
TOLD = (
    *("command", "cwd", "user", "code", "language", "signal"),
    *("template", "agent", "model", "network", "identity", "labels", "from", "snapshot", "turn", "count", "mode"),
    *("allow", "deny", "policies", "public", "limits", "lifetime", "idle_timeout", "expires_in", "grace"),
    *("day_usd", "day_tokens", "month_usd", "month_tokens"),
    *("name", "path", "source", "destination", "templateID", "metadata", "timeout"),
    *("username", "source_paths", "context_id"),
    *("alias", "tags", "target", "fromImage", "fromTemplate", "force"),
)
"""Fields of bodies that are recorded. Not among them: environments, prompts, keys, what a command reads."""
_OF_PROCESSES = ("cmd", "args", "cwd", "pid", "tag")
"""Fields of E2B's `process` that are recorded: which one it is, or what it is to be; not its environment."""
_HIDING = ("rules", "egressProxy")
"""Parts of E2B's `network` in which credentials stand: only their names are recorded."""

_TRIM_SECONDS = 86400.0
_PAGE = 1000
_CARRYING_ON = ("/health", "/metrics", "/process.Process/SendInput", "/process.Process/StreamInput")
_QUERY = ("path", "user", "username", "from", "to", "name")
_ID = re.compile(r"\b(?:sbx|tsk|snp|vol|key|tpl|upl|exe|sec)_[a-z2-7]{22}\b")


class Audit:
    """Of one installation; each organisation has a chain of its own."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._retention = context.settings.audit_retention
        # Made from the master key, which is not in the database: nothing has to be stored, and nothing can be replaced.
        self._key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(context.vault.token("audit")))
        self._heads = SignedHeads(context.settings.server_dir / "audit.heads", context.store, self.key.public)
        self._signing = asyncio.Lock()

    @property
    def key(self) -> AuditKey:
        """What heads are verified with."""
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return AuditKey(public=b64encode(raw).decode())

    async def watch(self) -> None:
        """Sign the newest records now and then, drop what is past its time, for ever."""
        trimmed = -math.inf
        while True:
            try:
                await self.sign()
                if time.monotonic() - trimmed >= _TRIM_SECONDS:
                    await self.trim()
                    trimmed = time.monotonic()
            except Exception:
                log.exception("the audit log could not be signed")
            await asyncio.sleep(SIGN_SECONDS)

    async def trim(self) -> None:
        """Drop what is past its time."""
        horizon = datetime.now(UTC) - timedelta(seconds=self._retention)
        while await self._store.audit.trim(horizon, self._sign):
            pass

    async def sign(self) -> set[str]:
        """A head for each chain that has something new. What does not go on from what was signed before is not signed:
        somebody else has written to the database. The organisations of these."""
        refused = set[str]()
        async with self._signing:
            for org, seq, digest in await self._store.audit.unsigned():
                try:
                    await self._heads.check(org, seq, digest)
                except NotItsChain as error:
                    log.error("the audit log was changed from outside: it is not signed", org=org, reason=str(error))
                    refused.add(org)
                    continue
                now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                head = AuditHead(org=org, seq=seq, hash=digest, time=now, signature="")
                head = head.model_copy(update={"signature": self._sign(head.signed())})
                await self._heads.keep(head)
                await self._store.audit.add_head(head)
                log.info("audit head", org=org, seq=seq, hash=digest)  # a copy that is not in the database
        return refused

    async def page(
        self, org: str, after: int, limit: int, subject: str | None, actor: str | None, action: str | None
    ) -> AuditPage:
        """Records behind `after`."""
        found = await self._store.audit.page(org, after, limit, subject=subject, actor=actor, action=action)
        return AuditPage(records=found, next=found[-1].seq if found else after)

    async def export(self, org: str) -> AsyncIterator[AuditKey | AuditRecord | AuditHead]:
        """All that there is: the key, then records, each head right after the one that it names. Ends with a head, or
        with records that could not be signed."""
        refused = await self.sign()
        heads = {head.seq: head for head in await self._store.audit.heads(org)}
        if (last := await self._heads.last(org)) is not None:
            heads[last.seq] = last
        yield self.key
        after = 0
        for seq in sorted(heads):
            while after < seq and (page := await self._store.audit.page(org, after, _PAGE, through=seq)):
                for record in page:
                    yield record
                after = page[-1].seq
            yield heads[seq]
        if org in refused:
            while page := await self._store.audit.page(org, after, _PAGE):
                for record in page:
                    yield record
                after = page[-1].seq

    def _sign(self, what: bytes) -> str:
        return b64encode(self._key.sign(what)).decode()


def guest_call(
    org: str, sandbox_id: str, method: str, target: str, user: str = "", message: dict[str, Any] | None = None
) -> Event | None:
    """A call to the guest of a sandbox by who has its token, before it is passed on; None for what only carries on
    with a command that runs. `message`: what it asks for, where it says so in its body."""
    if target.partition("?")[0] in _CARRYING_ON:
        return None
    event = token_call(org, "guest", sandbox_id, method, target)
    given = told_of(message or {})
    return replace(event, detail=event.detail | ({"user": user} if user else {}) | ({"body": given} if given else {}))


def token_call(org: str, action: str, subject: str, method: str, target: str, outcome: str = "begun") -> Event:
    """A call of who has the token of a sandbox, a volume, or a link: before it is carried out, or as it has ended."""
    path, _, query = target.partition("?")
    asked = {name: value for name, value in parse_qsl(query) if name in _QUERY}
    detail = {"method": method, "path": path[:256]} | ({"query": asked} if asked else {})
    return Event(org, action, subject, outcome, detail, by=Acting(f"token:{subject}"))


def subject_of(path: str) -> str:
    """The id in a path that says most of what the call is about: the first one."""
    found = _ID.search(path)
    return found[0] if found else ""


def call(org: str, outcome: str, method: str, path: str, query: str = "", body: bytes = b"") -> Event:
    """A call of the API, before it is carried out (`begun`), or as it is answered."""
    asked = {name: value for name, value in parse_qsl(query) if name in _QUERY}
    given = told(body)
    detail = {"method": method, "path": path[:256]} | ({"query": asked} if asked else {})
    return Event(org, "call", subject_of(path), outcome, detail | ({"body": given} if given else {}))


def told(body: bytes) -> dict[str, Any]:
    """What is recorded of a body."""
    try:
        fields = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    return told_of(fields) if isinstance(fields, dict) else {}


def told_of(fields: dict[str, Any]) -> dict[str, Any]:
    """The same, of a body that was read."""
    found = {name: fields[name] for name in TOLD if name in fields}
    if isinstance(process := fields.get("process"), dict):
        found["process"] = {name: process[name] for name in _OF_PROCESSES if name in process}
    if isinstance(network := found.get("network"), dict):
        found["network"] = network | {
            name: sorted(network[name]) for name in _HIDING if isinstance(network.get(name), dict)
        }
    return found
