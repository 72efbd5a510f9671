"""The ports of sandboxes, for whoever comes from outside with a token and no API key: who may come in, and the way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hutch.control.context import Context
from hutch.control.guests import Guests
from hutch.errors import SandboxNotFound
from hutch.store.sandboxes import LIVE

_KEPT = 4096


@dataclass(frozen=True)
class Door:
    """What it takes to reach one sandbox. Its tokens are the same for as long as it lives, whatever happens to it."""

    sandbox_id: str
    org: str
    secure: bool
    """Its guest is reached with the access token only."""
    public: bool
    """Its other ports are anybody's; else the traffic token is needed."""
    wakes: bool
    """A request wakes it when it is paused."""
    reboots: bool
    """Also when only its disk was saved: it is booted anew."""
    masked_host: str | None
    """What its ports are told that they are called; `${PORT}` stands for the port."""
    access_token: str
    traffic_token: str
    https_ports: frozenset[int] = frozenset()
    """Those on which a program speaks TLS by itself."""


@dataclass(frozen=True)
class Way:
    """A connection into a sandbox that has just been made."""

    transport: asyncio.Transport
    guest_token: str
    """What the guest itself asks for; it changes with every resume, and no one outside ever sees it."""


class Ports:
    """Of all sandboxes of this server."""

    def __init__(self, context: Context, guests: Guests) -> None:
        self._context = context
        self._guests = guests
        self._doors: OrderedDict[str, Door] = OrderedDict()

    async def door(self, sandbox_id: str) -> Door:
        """Raises `SandboxNotFound`, also when it has ended."""
        known = self._doors.get(sandbox_id)
        if known is not None:
            return known
        row = await self._context.store.sandboxes.get(sandbox_id)
        if row is None or row.state not in LIVE:
            raise SandboxNotFound(f"no sandbox {sandbox_id[:64]}")
        made = await self._context.store.e2b.get(sandbox_id)
        options = made.options if made is not None else {}
        door = Door(
            sandbox_id=sandbox_id,
            org=row.org,
            secure=bool(options.get("secure", True)),
            public=bool(options.get("public", False)),
            wakes=bool(options.get("auto_resume", made is None)),
            reboots=made is None,
            masked_host=options.get("masked_host"),
            https_ports=frozenset((options.get("network") or {}).get("httpsPorts", ())),
            access_token=self.access_token(sandbox_id),
            traffic_token=self.traffic_token(sandbox_id),
        )
        self._doors[sandbox_id] = door
        if len(self._doors) > _KEPT:
            self._doors.popitem(last=False)
        return door

    def access_token(self, sandbox_id: str) -> str:
        """For the guest of a sandbox: files, commands."""
        return self._context.vault.token(f"sandboxes.access:{sandbox_id}")

    def traffic_token(self, sandbox_id: str) -> str:
        """For its other ports."""
        return self._context.vault.token(f"sandboxes.traffic:{sandbox_id}")

    async def live(self) -> list[str]:
        """Ids of all to which a signed URL may lead."""
        return await self._context.store.e2b.live(LIVE)

    async def connect(
        self, door: Door, port: int, protocol: Callable[[], asyncio.Protocol], *, used: bool = True
    ) -> Way:
        """Connect to a port; without `used` it is neither woken nor kept awake. Raises `PortClosed`,
        `SandboxNotFound`, `SandboxNotRunning` (also for one that is paused and is not to be woken), `GuestUnavailable`,
        `NodeUnavailable`, and what keeps it from being woken."""
        try:
            use = self._guests.of(door.sandbox_id, door.org, wake=used and door.wakes, reboot=door.reboots, counts=used)
            async with use as guest:
                return Way(await guest.connect(port, protocol), guest.token)
        except SandboxNotFound:
            self._doors.pop(door.sandbox_id, None)
            raise

    async def running(self, door: Door) -> bool:
        """Whether it runs, as far as the database knows."""
        row = await self._context.store.sandboxes.get(door.sandbox_id)
        return row is not None and row.state == "running"

    def using(self, door: Door) -> AbstractContextManager[None]:
        """Around a request: for as long, nobody says that the sandbox is not used."""
        return self._guests.using(door.sandbox_id)

    def touch(self, sandbox_id: str) -> None:
        """Bytes flow, on a connection that is no request."""
        self._guests.touch(sandbox_id)

    def forget(self, sandbox_id: str) -> None:
        """What it takes to reach it has changed."""
        self._doors.pop(sandbox_id, None)
