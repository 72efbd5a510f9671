"""Who may come in: the access token and signatures for the guest, the traffic token for all other ports."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlencode

from hutch.control.ports import Door
from hutch.gateway import refusals
from hutch.gateway.refusals import Refusal
from hutch.http1.heads import Request
from hutch.model import CODE_PORT, GUEST_PORT

ACCESS_HEADER, TRAFFIC_HEADER = b"x-access-token", b"e2b-traffic-access-token"

_OPERATIONS = {b"GET": "read", b"HEAD": "read", b"POST": "write"}
_CALLS = frozenset((b"/health", b"/files", b"/files/compose", b"/metrics", b"/envs"))
_CONTEXTS = re.compile(rb"/health|/contexts(/[A-Za-z0-9-]+(/restart)?)?")
"""Paths of the code interpreter by which no code is run."""
_SERVICES = (b"/process.Process/", b"/filesystem.Filesystem/")


@dataclass(frozen=True)
class Entry:
    """What may come in."""

    request: Request
    """As it goes on."""
    known: bool = True
    """It has shown what it takes, or nothing is asked for: the sandbox is woken for it, and kept awake."""
    published: bool = False
    """It has shown nothing, and comes in for as long as this one port is public."""


def lacks_token(request: Request, door: Door, port: int) -> bool:
    """Whether it may come in only if this port was made public by itself."""
    return (
        port not in (GUEST_PORT, CODE_PORT)
        and not door.public
        and not _same(request.get(TRAFFIC_HEADER), door.traffic_token)
    )


def check_access(request: Request, door: Door, port: int) -> Entry:
    """Raises `Refusal`."""
    if port != GUEST_PORT:
        if not door.public and not _same(request.get(TRAFFIC_HEADER), door.traffic_token):
            raise refusals.forbidden(door.sandbox_id)
        if port == CODE_PORT and door.public:
            _check_code(request, door)
        return Entry(request)
    path = request.path
    if path not in _CALLS and not path.startswith(_SERVICES):
        raise refusals.internal_route(path.decode("latin-1"))
    given = request.get(ACCESS_HEADER)
    if not door.secure or _same(given, door.access_token):
        return Entry(request)
    if path == b"/health" or request.method == b"OPTIONS":
        return Entry(request, known=False)
    if given is None and path == b"/files":
        return Entry(check_signature(request, door.access_token))
    raise refusals.unauthorized("missing X-Access-Token header" if given is None else "invalid access token")


def _check_code(request: Request, door: Door) -> None:
    """Who has been told of one port must not be able to run code by another. The clients show their token for that,
    and for nothing else."""
    if not door.secure or request.method == b"OPTIONS" or _CONTEXTS.fullmatch(request.path):
        return
    if not _same(request.get(ACCESS_HEADER), door.access_token):
        raise refusals.unauthorized("running code takes the X-Access-Token header")


def check_signature(request: Request, token: str) -> Request:
    """A signed URL of `/files`, as what was signed and nothing else: neither another query nor, in `Authorization`,
    another user. Raises `Refusal`."""
    query = _query(request)
    given, expiration = query.get("signature"), query.get("signature_expiration")
    if not given:
        raise refusals.unauthorized("missing signature query parameter")
    if not _same(given.encode("ascii", "replace"), _sign(request, query, token)):
        raise refusals.unauthorized("invalid signature")
    if expiration is not None and not (expiration.isdecimal() and int(expiration[:18]) >= time.time()):
        raise refusals.unauthorized("signature is already expired")
    verified = [(name, query[name]) for name in ("path", "username") if name in query]
    fields = [(name, value) for name, value in request.fields if name.lower() != b"authorization"]
    target = "/files?" + urlencode(verified, errors="surrogateescape")
    return replace(request, target=target.encode(), fields=fields)


def signed_by(request: Request, tokens: Iterable[tuple[str, str]]) -> str | None:
    """Of these (name, token), the name of the one that has signed the URL; None when it is none of them."""
    query = _query(request)
    given = query.get("signature", "").encode("ascii", "replace")
    if request.path != b"/files" or not given:
        return None
    return next((name for name, token in tokens if _same(given, _sign(request, query, token))), None)


def _sign(request: Request, query: dict[str, str], token: str) -> str:
    parts = [query.get("path", ""), _OPERATIONS.get(request.method, ""), query.get("username", ""), token]
    if "signature_expiration" in query:
        parts.append(query["signature_expiration"])
    digest = hashlib.sha256(":".join(parts).encode("utf-8", "surrogateescape")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def _query(request: Request) -> dict[str, str]:
    text = request.target.partition(b"?")[2].decode("utf-8", "surrogateescape")
    try:
        found = parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=64)
    except ValueError:
        raise Refusal(400, "too many query parameters") from None
    return {name: given[-1] for name, given in found.items()}


def _same(given: bytes | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given, wanted.encode())
