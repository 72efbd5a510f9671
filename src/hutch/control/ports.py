"""The ports of sandboxes, for whoever comes from outside with a token and no API key: who may come in, and the way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hutch.control.context import Context, not_running
from hutch.control.guests import Guests
from hutch.errors import Conflict, LimitReached, SandboxNotFound
from hutch.model import MAX_PUBLIC_PORTS
from hutch.store.sandboxes import LIVE, SandboxRow

_KEPT = 4096
_AT_ONCE = 500
"""Sandboxes that the database is asked for in one statement."""


@dataclass(frozen=True)
class Door:
    """What it takes to reach one sandbox. Its tokens are the same for as long as it lives, whatever happens to it."""

    sandbox_id: str
    org: str
    secure: bool
    """Its guest is reached with the access token only."""
    public: bool
    """Its other ports are anybody's; else the traffic token is needed, except at those made public one by one."""
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

    async def public(self, sandbox_id: str, *, org: str) -> Sequence[int]:
        """Those of its ports that were made public one by one. Raises `SandboxNotFound`, `SandboxNotRunning` when it
        has ended."""
        return _living(await self._context.store.sandboxes.get(sandbox_id), sandbox_id, org).public_ports

    async def set_public(self, sandbox_id: str, port: int, public: bool, *, org: str) -> None:
        """Requests to this port need no token from now on, or need it again: what is open to it without one is then
        cut within seconds. A paused sandbox sleeps on. Raises `SandboxNotFound`, `SandboxNotRunning`, `LimitReached`,
        `Conflict` where all its ports are public."""
        await self.public(sandbox_id, org=org)
        if not public and (await self.door(sandbox_id)).public:
            hint = "Make it with `allow_public_traffic=False`: that cannot be changed later."
            raise Conflict(f"all ports of {sandbox_id} are public, as E2B's API makes sandboxes", hint=hint)
        store = self._context.store
        async with store.database.write() as connection:
            row = _living(await store.sandboxes.lock(connection, sandbox_id), sandbox_id, org)
            others = set(row.public_ports) - {port}
            wanted = others | {port} if public else others
            if public and len(wanted) > MAX_PUBLIC_PORTS:
                hint = "Make one private that nobody needs, or listen on one port and tell by paths."
                raise LimitReached(f"{row.id} has {MAX_PUBLIC_PORTS} public ports", limit="public_ports", hint=hint)
            if wanted != set(row.public_ports):
                await store.sandboxes.set_public_ports(connection, row, sorted(wanted))

    async def published(self, sandbox_ids: Collection[str]) -> dict[str, list[int]]:
        """The same of many, of every org, and also of such as have ended: asked of the database each time, for another
        server may have changed it."""
        ids, found = list(sandbox_ids), dict[str, list[int]]()
        for start in range(0, len(ids), _AT_ONCE):
            found |= await self._context.store.sandboxes.public_ports(ids[start : start + _AT_ONCE])
        return found

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


def _living(row: SandboxRow | None, sandbox_id: str, org: str) -> SandboxRow:
    if row is None or row.org != org:
        raise SandboxNotFound(f"no sandbox {sandbox_id[:64]}")
    if row.state not in LIVE:
        raise not_running(row)
    return row
