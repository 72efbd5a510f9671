"""One server that the gateway stands before: a process, and the session with it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcp import Client, StdioServerParameters, stdio_client

LOGS = Path("/var/log/mcp-gateway")
START_SECONDS = 45.0
"""For all of them together: E2B's clients give the command 60."""
_TAIL = 1500


class NotAnswering(Exception):
    """A server did not start; what it said."""


class Upstream:
    """Started and stopped by a task of its own, in which the library's scopes are entered and left."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], cwd: str) -> None:
        self.name = name
        self.client: Client
        self._how = (command, env, cwd)
        self._log = LOGS / f"{name.replace('/', '_')}.log"
        self._answers: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when it answers. Raises `NotAnswering`."""
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(self._answers)
        except TimeoutError as error:
            raise NotAnswering(f"{self.name} did not answer within {START_SECONDS:.0f} s\n{self._said()}") from error
        except Exception as error:  # of a program that may do anything
            raise NotAnswering(f"{self.name} did not start: {_plain(error)}\n{self._said()}") from error

    async def stop(self) -> None:
        """Ends its process, too."""
        self._over.set()
        if self._task is not None:
            if not self._answers.done():
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        command, env, cwd = self._how
        how = StdioServerParameters(command=command[0], args=command[1:], env=env, cwd=cwd)
        try:
            with self._log.open("w") as log:
                async with Client(stdio_client(how, errlog=log), cache=None) as self.client:
                    self._answers.set_result(None)
                    await self._over.wait()
        except Exception as error:
            if self._answers.done():
                raise
            self._answers.set_exception(error)

    def _said(self) -> str:
        try:
            return self._log.read_text(errors="replace")[-_TAIL:].strip()
        except OSError:
            return ""


def _plain(error: BaseException) -> str:
    """What went wrong, of what the library's scopes have made of it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
