"""A kernel that speaks Jupyter's messages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import zmq

from hutch_code import results
from hutch_code.kernels import Event, Kernel, KernelStopped, Surroundings
from hutch_code.wire import Message, Wire, connection_file

_START_SECONDS = 60.0
_ASK_AGAIN = 0.2
_MUCH = 256
"""Messages that wait for a client which does not read, before no more are taken from the kernel."""


class Process(Protocol):
    """The kernel's process, the leader of a session of its own."""

    pid: int
    ended: asyncio.Future[str]
    """Done when it has: how."""


class Launcher(Protocol):
    """Starts the process of a kernel."""

    async def launch(self, connection: Path, cwd: str) -> Process:
        """Raises `KernelStopped`."""


class JupyterKernel(Kernel):
    """One process, and the wire to it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], launcher: Launcher) -> None:
        self._context = context
        self._launcher = launcher
        self._folder = Path(tempfile.mkdtemp(prefix="kernel-"))  # only the user can enter it
        self._wire = Wire(context, self._folder, self._hear)
        self._process: Process | None = None
        self._waiting: deque[Message] = deque()
        self._news = asyncio.Event()
        self._stopped: str | None = None

    @property
    def stopped(self) -> str | None:
        return self._stopped

    async def start(self, cwd: str) -> None:
        self._process = await self._launcher.launch(connection_file(self._folder), cwd)
        self._process.ended.add_done_callback(lambda ended: self._end(ended.result()))
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._introduce()
        except TimeoutError:
            raise KernelStopped("the kernel did not start in time") from None

    async def execute(self, code: str, around: Surroundings) -> AsyncGenerator[Event, None]:
        self._waiting.clear()
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        known = {"generation": around.generation, "sandbox": around.sandbox, "env": around.env}
        id = self._wire.send("execute_request", content | {"stop_on_error": False}, {"hutch": known})
        try:
            while True:
                message = await self._next()
                if message["parent"] != id:
                    continue
                if message["kind"] == "status" and message["content"].get("execution_state") == "idle":
                    return
                if event := results.from_message(message["kind"], message["date"], message["content"]):
                    yield event
        finally:
            self._waiting.clear()
            self._wire.release()

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    async def kill(self, reason: str) -> None:
        process = self._process
        self._end(reason)
        if process is not None:
            self._signal(signal.SIGKILL)
            await asyncio.wait([process.ended])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and not self._process.ended.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _introduce(self) -> None:
        """Until the kernel answers, and its output arrives: it may be that the one works before the other does."""
        while True:
            id = self._wire.send("kernel_info_request", {}, {})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN):
                    while (await self._next())["parent"] != id:
                        pass
                    return

    async def _next(self) -> Message:
        while not self._waiting:
            if self._stopped is not None:
                raise KernelStopped(self._stopped)
            self._wire.release()
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def _hear(self, message: Message) -> None:
        self._waiting.append(message)
        if len(self._waiting) >= _MUCH:
            self._wire.hold()
        self._news.set()

    def _end(self, how: str) -> None:
        if self._stopped is not None:
            return
        self._stopped = how
        self._wire.close()
        self._news.set()
        shutil.rmtree(self._folder, ignore_errors=True)
