"""Which port of which sandbox a request is for: said by the host name (`8080-<id>.any.domain`), or by two headers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hutch.gateway.heads import Request
from hutch.gateway.refusals import Refusal
from hutch.model.e2b import hutch_sandbox_id

SANDBOX_HEADER, PORT_HEADER = b"e2b-sandbox-id", b"e2b-sandbox-port"
_LABEL = re.compile(r"([0-9]{1,5})-([a-z0-9]+)(?:-.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A port of a sandbox."""

    sandbox_id: str
    port: int


def find_place(request: Request) -> Place | None:
    """None when the request does not say. Raises `Refusal` when it says what cannot be."""
    host = (request.get(b"host") or b"").decode("latin-1")
    if (match := _LABEL.fullmatch(host.partition(".")[0])) and "." in host:
        return _place(match[2].lower(), match[1])
    sandbox, port = request.get(SANDBOX_HEADER), request.get(PORT_HEADER)
    if sandbox is None and port is None:
        return None
    if sandbox is None or port is None:
        missing = SANDBOX_HEADER if sandbox is None else PORT_HEADER
        raise Refusal(400, f"missing header {missing.decode()}")
    return _place(sandbox.decode("latin-1"), port.decode("latin-1"))


def _place(sandbox: str, port: str) -> Place:
    id = hutch_sandbox_id(sandbox)
    if id is None:
        raise Refusal(400, f"invalid sandbox id {sandbox[:64]!r}")
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        raise Refusal(400, f"invalid port {port[:16]!r}")
    return Place(id, int(port))
