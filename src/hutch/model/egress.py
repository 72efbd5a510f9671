"""The egress log: what a sandbox has reached, and what it was refused."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from hutch.model.common import Model


class EgressProcess(Model):
    """Who has opened a connection, by the word of the sandbox's kernel."""

    pid: int
    path: str | None = Field(None, description="The file that it runs; unset when its start was not seen.")
    name: str = Field(description="What it calls itself.")
    others: int = Field(
        0,
        description="Other processes that connected to the same place in those seconds: it may have been one of them.",
    )


class EgressEntry(Model):
    """One connection, or one name that was asked for. What comes several times within a moment is one entry."""

    seq: int = Field(description="Rises; give the last as `after` for what came since.")
    time: datetime
    kind: Literal["connection", "name", "secret"] = Field(
        description="`secret`: what the broker did with a secret, or with a connection to a host that one is for."
    )
    allowed: bool
    name: str | None = Field(
        None,
        description="The name that was asked for, or that the connection said it wants; where the kernel alone has "
        "seen it, the one for which the sandbox was last told its address.",
    )
    address: str | None = None
    port: int | None = None
    protocol: str = Field("tcp", description="tcp, udp, icmp, or a number.")
    addresses: list[str] = Field([], description="What a name was resolved to.")
    rule: str | None = Field(None, description="The rule that let it through.")
    reason: str | None = Field(None, description="Why it was refused or ended.")
    sent: int | None = Field(
        None,
        description="Bytes from the sandbox. Of connections that a rule about addresses let through (or `public`, or "
        "`allow_all`): of whole packets, in a second entry at their end.",
    )
    received: int | None = None
    seconds: float | None = Field(
        None, description="How long it was open; entries of connections are made at their end."
    )
    secret: str | None = Field(None, description="The name of the secret that was sent, or refused.")
    count: int = Field(1, description="How often, within a moment.")
    process: EgressProcess | None = Field(
        None, description="Who has opened it, or asked for the name, where the sandbox's kernel tells."
    )

    @property
    def target(self) -> str:
        """Where to, for a person."""
        place = self.name or self.address or "?"
        return f"{place}:{self.port}" if self.kind != "name" and self.port is not None else place

    @property
    def message(self) -> str:
        """All of it in one line, such as "blocked: evil.test:443 (not in policy)"."""
        if not self.allowed:
            return f"blocked: {self.target} ({self.reason or 'not in policy'})"
        return f"allowed: {self.target} ({self.reason or self.rule or 'in policy'})"
