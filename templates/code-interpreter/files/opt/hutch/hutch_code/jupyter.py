"""A kernel that speaks Jupyter's messages: a program of others'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from hutch_code import results
from hutch_code.kernels import Event, Kernel, KernelStopped, Surroundings
from hutch_code.processes import Process, spawn
from hutch_code.wire import Message, Wire, connection_file

_START_SECONDS = 60.0
_ASK_AGAIN = 0.2
_MUCH = 256
"""Messages that wait for a client which does not read, before no more are taken from the kernel."""


class JupyterKernel(Kernel):
    """One process, and the wire to it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kernel-"))  # only the user can enter it
        self._wire = Wire(self._folder, self._hear)
        self._process: Process | None = None
        self._waiting: deque[Message] = deque()
        self._news = asyncio.Event()
        self._stopped: str | None = None

    @abstractmethod
    def command(self, connection: Path) -> list[str]:
        """What is started; the file tells it of its sockets."""

    @abstractmethod
    def before(self, around: Surroundings) -> str:
        """Code that makes the surroundings of the next execution; may be empty."""

    @abstractmethod
    def after(self, around: Surroundings) -> str:
        """Code that takes back what was for one execution alone; may be empty."""

    @property
    def stopped(self) -> str | None:
        return self._stopped

    async def start(self, cwd: str) -> None:
        command = self.command(connection_file(self._folder))
        self._process = await spawn(command, cwd, out=asyncio.subprocess.DEVNULL, err=asyncio.subprocess.DEVNULL)
        self._process.ended.add_done_callback(lambda ended: self._end(ended.result()))
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._introduce()
        except TimeoutError:
            raise KernelStopped("the kernel did not start in time") from None

    async def execute(self, code: str, around: Surroundings) -> AsyncGenerator[Event, None]:
        self._waiting.clear()
        try:
            await self._quietly(self.before(around))
            async with aclosing(self._run(code)) as events:
                async for event in events:
                    yield event
            await self._quietly(self.after(around))
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

    async def _quietly(self, code: str) -> None:
        if code:
            async with aclosing(self._run(code, silent=True)) as events:
                async for _ in events:
                    pass

    async def _run(self, code: str, silent: bool = False) -> AsyncGenerator[Event, None]:
        asked = _request(code, silent)
        id = self._wire.send("execute_request", asked)
        idle = replied = False
        while not (idle and replied):
            message = await self._next()
            if message["parent"] != id:
                continue
            if message["kind"] == "execute_reply":
                if message["content"].get("status") == "aborted":  # with what was queued before an error: it is not
                    id, idle = self._wire.send("execute_request", asked), False
                    continue
                replied = True
            elif message["kind"] == "status":
                idle = message["content"].get("execution_state") == "idle"
            elif event := results.from_message(message["kind"], message["date"], message["content"]):
                yield event

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and not self._process.ended.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _introduce(self) -> None:
        """Until the kernel answers, and its output arrives: it may be that the one works before the other does."""
        while True:
            id = self._wire.send("execute_request", _request("", silent=True))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ASK_AGAIN):
                    while (message := await self._next())["parent"] != id or message["kind"] != "status":
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


def _request(code: str, silent: bool) -> Message:
    content = {"code": code, "silent": silent, "store_history": not silent, "user_expressions": {}}
    return content | {"allow_stdin": False, "stop_on_error": False}
