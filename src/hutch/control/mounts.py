"""Serves the volumes that sandboxes have mounted: keeps a connection into each, on which its kernel asks for files.

The connection is ours to make, as every other into a sandbox: a sandbox needs no way out for its volumes. It is cut
with every pause, snapshot and restart, and made again; the kernel inside waits meanwhile, and asks again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import AsyncExitStack

import structlog

from hutch.control.context import Context
from hutch.control.links import Link
from hutch.control.notifier import sandbox
from hutch.control.volumes import Volumes
from hutch.errors import HutchError, InternalError
from hutch.store.sandboxes import LIVE, SandboxRow
from hutch.volumes import Volume
from hutch.volumes.fuse import Mount

log = structlog.get_logger("hutch.control")

_LOOK = 5.0
"""Seconds after which a sandbox's row is read without a reason."""
_AGAIN = (0.05, 0.5, 2.0)
"""Seconds before another attempt at a guest that does not answer."""


class Mounts:
    """Of all sandboxes of this server."""

    def __init__(self, context: Context, volumes: Volumes) -> None:
        self._context = context
        self._volumes = volumes
        self._kept: dict[str, _Sandbox] = {}

    async def start(self) -> None:
        """Serve those that an earlier process has served."""
        for row in await self._context.store.sandboxes.with_volumes():
            self._of(row)

    async def close(self) -> None:
        """Leave them: their kernels wait for the next process."""
        kept, self._kept = list(self._kept.values()), {}
        for each in kept:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in kept), return_exceptions=True)

    async def attach(self, row: SandboxRow, token: str) -> None:
        """Mount what a sandbox that runs should have, before anybody is told that it runs. Raises `Conflict`,
        `SandboxNotRunning`, `GuestUnavailable`, `NodeUnavailable`, `InternalError`."""
        if row.volumes:
            await self._of(row).connect(row, token)

    def _of(self, row: SandboxRow) -> _Sandbox:
        kept = self._kept.get(row.id)
        if kept is None:
            kept = self._kept[row.id] = _Sandbox(self._context, self._volumes, row)
            kept.task = asyncio.create_task(kept.keep())
            kept.task.add_done_callback(lambda _: self._kept.pop(row.id, None))
        return kept


class _Sandbox:
    """The volumes of one."""

    task: asyncio.Task[None]

    def __init__(self, context: Context, volumes: Volumes, row: SandboxRow) -> None:
        self._context = context
        self._volumes = volumes
        self._row = row
        self._turn = asyncio.Lock()
        self._open = AsyncExitStack()
        self._mounts: dict[str, tuple[Volume, Mount]] = {}
        self._links: dict[str, Link] = {}

    async def connect(self, row: SandboxRow, token: str) -> None:
        """Connect what is not connected. Raises as `Mounts.attach`."""
        async with self._turn:
            for mount in row.volumes or ():
                path = mount["path"]
                if (link := self._links.get(path)) is not None and link.alive:
                    continue
                volume, served = await self._served(path, mount["volume"])
                link = Link(volume, served, self._lost)
                guest = self._context.node_of(row).guest(row.id, token)
                await guest.attach(mount["volume"], path, lambda link=link: link)  # type: ignore[misc]
                self._links[path] = link

    async def keep(self) -> None:
        """Until the sandbox has ended: what is cut is connected again."""
        failures, ended = 0, False
        try:
            while True:
                bell = self._context.notifier.bell(sandbox(self._row.id))
                row = await self._context.store.sandboxes.get(self._row.id)
                if row is None or (row.state not in LIVE and row.ended_at is not None):
                    ended = True
                    return
                failures = 0 if await self._reconnected(row) else failures + 1
                patience = _AGAIN[min(failures, len(_AGAIN)) - 1] if failures else _LOOK
                await self._context.notifier.wait(bell, patience)
        finally:
            await self._end(ended)

    async def _reconnected(self, row: SandboxRow) -> bool:
        if row.state != "running" or row.guest_token is None:
            return True
        try:
            await self.connect(row, row.guest_token)
        except HutchError as error:
            log.info("a volume is not connected yet", sandbox=row.id, error=error.detail)
            return False
        return True

    async def _served(self, path: str, volume_id: str) -> tuple[Volume, Mount]:
        known = self._mounts.get(path)
        if known is None:
            volume = await self._open.enter_async_context(self._volumes.using(volume_id, self._row.org))
            try:
                if volume.users == 1:
                    await self._forget_ended(volume)
                known = self._mounts[path] = volume, await volume.run(Mount, volume.tree, self._row.id, path)
            except sqlite3.Error as error:
                log.exception("a volume cannot be mounted", volume=volume_id)
                raise InternalError(f"the volume {volume_id} cannot be mounted") from error
        return known

    async def _forget_ended(self, volume: Volume) -> None:
        """The marks of sandboxes that ended while no server ran."""
        marked = await volume.run(volume.tree.marks.sandboxes)  # before the question who has not ended
        living = {row.id for row in await self._context.store.sandboxes.with_volumes(self._row.org)}
        for id in marked - living:
            await volume.run(volume.tree.marks.forget_sandbox, id)

    def _lost(self) -> None:
        self._context.notifier.notify(sandbox(self._row.id))

    async def _end(self, for_good: bool) -> None:
        for link in self._links.values():
            link.abort()
        for volume, served in self._mounts.values():
            await volume.run(served.end, for_good)
        await self._open.aclose()
