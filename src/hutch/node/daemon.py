"""The daemon put together: parts, take-over, sockets, and an orderly stop that leaves the sandboxes running."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from importlib.metadata import version

import structlog
from aiohttp import web

from hutch.model import NodeInfo
from hutch.node.app import NodeApi
from hutch.node.home import NodeHome, StartError, disk_free
from hutch.node.parts import Parts, assemble
from hutch.node.sandboxes import Sandboxes
from hutch.node.sockets import listen
from hutch.node.sweep import Takeover
from hutch.settings import Settings

log = structlog.get_logger("hutch.node")


class Daemon:
    """One node daemon. `run` serves until it is told to stop; `remove_all` is `hutch down`'s last step."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = NodeHome(settings)
        self._instance = secrets.token_hex(8)
        self._parts: Parts
        self._sandboxes: Sandboxes

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises `StartError`."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await self._start()
        tidying = asyncio.create_task(self._sandboxes.tidy_forever())
        runner = await self._serve()
        log.info("node ready", node=self._home.id, socket=str(self._settings.node_socket))
        try:
            await stop.wait()
        finally:
            log.info("node stops; its sandboxes go on", sandboxes=self._parts.registry.alive())
            tidying.cancel()
            self._parts.journal.wake()
            await runner.cleanup()
            await self._parts.tunnel.stop()
            await self._stop()

    async def remove_all(self) -> None:
        """End every sandbox, remove every trace of this node from the host but its directory. Raises `StartError`."""
        await self._start()
        ends = (self._sandboxes.ender.end(entry, "hutch was stopped") for entry in self._parts.registry)
        results = await asyncio.gather(*ends, return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                log.error("not removed", exc_info=error)
        await self._stop()

    async def _start(self) -> None:
        self._home.open()
        self._parts = assemble(self._settings, self._home)
        problems = await self._parts.runtime.check()
        if problems:
            raise StartError("\n".join(problems))
        await self._parts.journal.open()
        await self._parts.guests.start()
        await self._parts.start_network()
        self._sandboxes = Sandboxes(self._parts, boots_at_once=(os.cpu_count() or 1) + 1)
        await Takeover(self._parts, self._sandboxes).run()

    async def _stop(self) -> None:
        await self._sandboxes.stop()
        await self._parts.slots.stop()
        await self._parts.gateway.stop()
        await self._parts.guests.stop()
        await self._parts.journal.close()
        self._parts.records.close()
        empty = self._parts.registry.alive() == 0
        if empty:
            await self._parts.slots.remove_all()
        self._home.close(empty)

    async def _serve(self) -> web.AppRunner:
        api = NodeApi(self._parts, self._sandboxes, self._info)
        runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=10.0)
        await runner.setup()
        await self._parts.tunnel.start(listen(self._settings.tunnel_socket, self._settings.server_user))
        site = web.SockSite(runner, listen(self._settings.node_socket, self._settings.server_user))
        await site.start()
        return runner

    def _info(self) -> NodeInfo:
        return NodeInfo(
            node=self._home.id,
            instance=self._instance,
            version=version("hutch"),
            runtime=self._parts.runtime.name,
            sandboxes=self._parts.registry.alive(),
            slots_free=self._parts.slots_free(),
            cpus=os.cpu_count() or 1,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            disk_free_bytes=disk_free(self._home.directory),
        )
