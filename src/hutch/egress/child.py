"""A child of the node without privileges: started when it is needed first, and again when it dies.

Both talk over a socket that they have from the start, one JSON object a line. What the node tells is numbered (`n`) and
answered by `done {n}` when it has been done. A child says `ready` when it listens, and is told then all that is known,
and `told` after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from hutch.errors import HutchError

log = structlog.get_logger(__name__)

MAX_LINE = 1 << 20
_ACKNOWLEDGED = 3.0
"""Seconds in which a child has to do as it is told, else it is started anew."""
_STANDS = 10.0
"""Seconds for which whoever needs one waits for a child that is being started."""
_RETRY = (0.1, 5.0)
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "LANG")
"""What the child's Python may need to start. The node's own may hold keys of its operator."""


class Child(ABC):
    """The node's end."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._status: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._standing = asyncio.Event()

    @abstractmethod
    def options(self) -> list[str]:
        """Of its command line."""

    @abstractmethod
    def sockets(self) -> Mapping[str, socket.socket]:
        """That it gets, by the names of the options that tell their numbers."""

    @abstractmethod
    def known(self) -> Iterable[dict[str, Any]]:
        """What a new one is told."""

    @abstractmethod
    def hear(self, message: dict[str, Any]) -> None:
        """It says something of its own. May raise whatever it likes: then the child is ended."""

    @abstractmethod
    async def close(self) -> None:
        """Before a child begins and after it has ended: see to it that nothing is open without one."""

    def environment(self) -> Iterable[str]:
        """Variables that it may have besides."""
        return ()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process is not None else None

    def need(self) -> None:
        """Have it started, if it was not."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=self._name)

    async def stand(self) -> None:
        """Returns when it has been told all that is known, or some seconds later: it is closed as long."""
        self.need()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STANDS):
                await self._standing.wait()

    async def end(self) -> None:
        """End the process, and start none again."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def tell(self, message: dict[str, Any]) -> None:
        """Returns when it has been done. One that cannot be told is ended: the next one hears it at its start."""
        if self._writer is None:
            return
        number, done = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        self.send(message | {"n": number})
        try:
            async with asyncio.timeout(_ACKNOWLEDGED):
                await done
        except TimeoutError:
            log.error(f"the {self._name} does not answer")
            self._kill()
        finally:
            self._waiting.pop(number, None)

    def send(self, message: dict[str, Any]) -> None:
        """Without waiting."""
        if self._writer is not None:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _keep(self) -> None:
        pause = _RETRY[0]
        while True:
            try:
                await self._run()
                pause = _RETRY[0]
            except Exception as error:  # also what only a child that was taken over would say
                pause = min(2 * pause, _RETRY[1])
                log.error(f"the {self._name} has failed", error=f"{type(error).__name__}: {error}")
            log.warning(
                f"the {self._name} has ended, and is started again; until then it is closed", status=self._status
            )
            await asyncio.sleep(pause)

    async def _run(self) -> None:
        """One life of the process."""
        await self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
            try:
                self._process = await self._spawn(theirs)
            except BaseException:
                writer.close()
                raise
        try:
            await self._converse(reader, writer)
        finally:
            self._writer = None
            self._standing.clear()
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)  # it is closed, whatever it was to do
            writer.close()
            self._kill()
            self._status = await asyncio.shield(self._process.wait())
            self._process = None
            with contextlib.suppress(HutchError):  # what is closed goes with the node
                await self.close()

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        descriptors = {"control": theirs.fileno(), **{name: each.fileno() for name, each in self.sockets().items()}}
        options = [f"--{name}={descriptor}" for name, descriptor in descriptors.items()]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self._module, *self.options(), *options),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=tuple(descriptors.values()),
            env={name: os.environ[name] for name in (*_ENVIRONMENT, *self.environment()) if name in os.environ},
        )

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = -1
        while line := await reader.readline():
            message = json.loads(line)
            match message["op"]:
                case "ready":
                    self._writer = writer
                    for each in self.known():
                        self.send(each | {"n": next(self._numbers)})
                    told = next(self._numbers)
                    self.send({"op": "told", "n": told})
                case "done" if not self._standing.is_set() and message["n"] == told:
                    self._standing.set()
                    log.info(f"the {self._name} stands")
                case "done":
                    future = self._waiting.get(message["n"])
                    if future is not None and not future.done():
                        future.set_result(None)
                case _:
                    self.hear(message)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
