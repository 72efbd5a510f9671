"""Contexts: each a language, a directory, and a kernel with what earlier code left in it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

from hutch_code import results
from hutch_code.kernels import Event, Kernel, KernelStopped, Surroundings

RESTARTING = "the context was restarted"
REMOVED = "the context was removed"


class Context:
    """Runs one execution after the other, in the order in which they came."""

    def __init__(self, language: str, cwd: str, make: Callable[[], Kernel]) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._make = make
        self._kernel: Kernel | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.wanted = asyncio.Event()
        """Set while code waits for other code to end."""
        self._starting = asyncio.Lock()

    def describe(self) -> dict[str, str]:
        """As the client sees it."""
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    async def start(self) -> Kernel:
        """The kernel, started if there is none. Raises `KernelStopped`."""
        async with self._starting:
            if self._kernel is None or self._kernel.stopped is not None:
                kernel = self._make()
                try:
                    await kernel.start(self.cwd)
                except BaseException:
                    await kernel.kill("it did not start")
                    raise
                self._kernel = kernel
            return self._kernel

    async def execute(self, code: str, around: Callable[[], Surroundings]) -> AsyncGenerator[Event, None]:
        """Run code when those before it are done. Must be read to its end: what runs goes on until then."""
        async with self._my_turn():
            try:
                if (found := self._kernel) is not None and (how := found.stopped) is not None:
                    self._kernel = None
                    raise KernelStopped(f"{how}; what it held is lost, and the next code starts a new one")
                kernel = await self.start()
                async with aclosing(kernel.execute(code, around())) as events:
                    async for event in events:
                        yield event
            except KernelStopped as stopped:
                if self._kernel is not None and self._kernel.stopped is not None:
                    self._kernel = None  # told now
                yield results.error(_name(stopped), str(stopped))

    @asynccontextmanager
    async def _my_turn(self) -> AsyncGenerator[None, None]:
        self._waiting += 1
        if self._turn.locked():
            self.wanted.set()
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.wanted.clear()
        try:
            yield
        finally:
            self._turn.release()

    def interrupt(self) -> None:
        """Interrupt what runs."""
        if self._kernel is not None:
            self._kernel.interrupt()

    async def restart(self) -> None:
        """A fresh kernel, at once; code that runs gets an error. Raises `KernelStopped`."""
        await self.kill(RESTARTING)
        await self.start()

    async def kill(self, reason: str) -> None:
        """End the kernel."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await kernel.kill(reason)


def _name(stopped: KernelStopped) -> str:
    """The error's name, which programs look at."""
    return {RESTARTING: "ContextRestarting", REMOVED: "ContextRemoved"}.get(str(stopped), "KernelDied")
