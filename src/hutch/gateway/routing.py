"""Where a request goes: to a port of a sandbox, said by the host name (`8080-<id>.any.domain`) or by two headers; over
TLS, where the host name alone counts, also to the API."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hutch.gateway.refusals import Refusal
from hutch.http1.heads import Request
from hutch.model.e2b import hutch_sandbox_id

SANDBOX_HEADER, PORT_HEADER = b"e2b-sandbox-id", b"e2b-sandbox-port"
API_LABEL, GATEWAY_LABEL = "api", "sandbox"
"""Names below the domain: of the API, and of the gateway for requests that say by headers where they go."""
_LABEL = re.compile(r"([0-9]{1,5})-([a-z0-9]+)(?:-.*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A port of a sandbox."""

    sandbox_id: str
    port: int


@dataclass(frozen=True)
class Api:
    """The server's own API."""


@dataclass(frozen=True)
class Names:
    """All names below a domain, as `domain` or `domain:port`."""

    domain: str

    @property
    def url(self) -> str:
        """Of the API."""
        return f"https://{API_LABEL}.{self.domain}"

    def find(self, request: Request) -> Place | Api | None:
        """None when the name is the gateway's, and no header says more. Raises `Refusal` for all other names."""
        host = (request.get(b"host") or b"").decode("latin-1")
        name, domain = _name(host), _name(self.domain)
        label = name.removesuffix(f".{domain}")
        if name == f"{API_LABEL}.{domain}":
            return Api()
        if name == f"{GATEWAY_LABEL}.{domain}":
            return _by_headers(request)
        if label != name and (match := _LABEL.fullmatch(label)):
            return _place(match[2], match[1])
        if label != name or name == domain:
            raise Refusal(404, f"no such name: {name[:128]!r}. The API is {API_LABEL}.{domain}")
        raise Refusal(421, f"not a name of this server: {name[:128]!r}")


def find_place(request: Request) -> Place | None:
    """On the plain port. None when the request does not say. Raises `Refusal` when it says what cannot be."""
    host = (request.get(b"host") or b"").decode("latin-1")
    if (match := _LABEL.fullmatch(host.partition(".")[0])) and "." in host:
        return _place(match[2].lower(), match[1])
    return _by_headers(request)


def _name(host: str) -> str:
    return host.partition(":")[0].removesuffix(".").lower()


def _by_headers(request: Request) -> Place | None:
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
