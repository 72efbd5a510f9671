"""The server's side of the zygote: has it fork kernels, and hears of their ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from hutch_code.kernels import KernelStopped
from hutch_code.processes import Process

_READY_SECONDS = 80.0
_FORK_SECONDS = 20.0


class Zygotes:
    """Starts the zygote when it is needed, and again when it has ended; forks from it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._line: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._starting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._last = 0
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._ends: dict[int, asyncio.Future[str]] = {}

    async def fork(self, cwd: str, *descriptors: int) -> Process:
        """A kernel in this directory, with these as its control, output, errors and mailbox. Raises `KernelStopped`."""
        loop = asyncio.get_running_loop()
        line = await self._started()
        self._last += 1
        id = self._last
        asked: asyncio.Future[int] = loop.create_future()
        ended: asyncio.Future[str] = loop.create_future()
        self._asked[id], self._ends[id] = asked, ended
        try:
            socket.send_fds(line, [json.dumps({"id": id, "cwd": cwd}).encode() + b"\n"], descriptors)
            async with asyncio.timeout(_FORK_SECONDS):
                return Process(await asked, ended)
        except (TimeoutError, OSError):
            raise KernelStopped("no kernel could be forked in time") from None
        finally:
            self._asked.pop(id, None)

    async def _started(self) -> socket.socket:
        async with self._starting:
            if self._line is not None and self._reading is not None and not self._reading.done():
                return self._line
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "hutch_code.zygote", str(theirs.fileno())]
                environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=environment, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
                )
            self._line = ours  # written to directly: a transport does not send descriptors
            reader, self._writer = await asyncio.open_connection(sock=ours)
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    if not await reader.readline():
                        raise KernelStopped("the process that kernels are forked from did not start")
            except TimeoutError:
                self._process.kill()
                raise KernelStopped("the process that kernels are forked from did not start in time") from None
            self._reading = asyncio.create_task(self._read(reader))
            return self._line

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._heard(json.loads(line))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(KernelStopped("the process that kernels are forked from has ended"))
        for ended in self._ends.values():
            ended.set_result("the process that the kernel was forked from has ended")
        self._ends.clear()

    def _heard(self, said: dict[str, Any]) -> None:
        id = said["id"]
        if "pid" in said:
            asked = self._asked.get(id)
            if asked is not None and not asked.done():
                asked.set_result(said["pid"])
            else:  # nobody waits for it any more
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said["pid"], signal.SIGKILL)
        if "ended" in said and (ended := self._ends.pop(id, None)) is not None:
            ended.set_result(said["ended"])
