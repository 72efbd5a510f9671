"""Ports of sandboxes, as they are reached from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from hutch.model.code import CODE_PORT
from hutch.model.common import Model

GUEST_PORT = 49983
"""On which the guest itself listens in every sandbox; envd's own number."""
MAX_PUBLIC_PORTS = 100

_OWN = {
    GUEST_PORT: "is the sandbox's own, by which commands are run: it opens for the access token only",
    CODE_PORT: "is the code interpreter's, by which code is run: it is never public on its own",
}


def _not_own(port: int) -> int:
    if port in _OWN:
        raise ValueError(f"{port} {_OWN[port]}")
    return port


PortNumber = Annotated[int, Field(ge=1, le=65535), AfterValidator(_not_own)]


class PutPort(Model):
    """`PUT /v1/sandboxes/{id}/ports/{port}`."""

    public: bool = Field(description="Whether requests need no token from now on.")


class Port(Model):
    """A port of a sandbox, and the way to it."""

    port: int
    public: bool = Field(description="Whether requests need no token.")
    url: str = Field(description="Where it is reached.")
    headers: dict[str, str] = Field(
        description="To send with each request to `url`: what its host name does not say, and the token where it needs "
        "one."
    )
    traffic_header: str = Field(description="The header that the token goes into.")
    traffic_token: str = Field(
        description="Opens all ports of the sandbox that are not public. It stays the same for as long as that lives."
    )


class SandboxPorts(Model):
    """`GET /v1/sandboxes/{id}/ports`."""

    public: bool = Field(description="Whether all its ports are public: so are those of E2B's API by default.")
    ports: list[Port] = Field(description="Those that were made public one by one, in their order.")
