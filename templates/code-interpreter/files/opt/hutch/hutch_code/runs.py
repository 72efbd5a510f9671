"""One execution on behalf of a client, which may go away while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hutch_code import results
from hutch_code.contexts import Context
from hutch_code.kernels import Event, Surroundings
from hutch_code.surroundings import Sandbox

_MUCH = 256
"""Events that wait for the client before the kernel has to."""
_KEEPALIVE = 5.0
_GRACE = 20
_LOOK = 0.25
"""After so many looks, so many seconds apart, a client that went away is known not to have been cut off by a freeze of
the sandbox: a freeze is told soon after it, but while one lasts any clock may run on."""
_AGAIN = 2.0
"""Seconds between two interrupts."""
_STUBBORN = 10.0
"""Seconds after its time-out for which code that does not listen holds up the answer."""

_PIECE = 64 << 10
"""Bytes of lines, about, that go out together."""
KEEPALIVE: Event = {"type": "keepalive"}
END: Event = {"type": "end_of_execution"}


class Run:
    """Drives the execution to its end, whoever listens, so that the context is free when the next one gets it."""

    def __init__(
        self, context: Context, sandbox: Sandbox, code: str, env: dict[str, str], timeout: float | None
    ) -> None:
        self._context = context
        self._sandbox = sandbox
        self._code = code
        self._env = env
        self._timeout = timeout
        self._begun = False
        self._watching: asyncio.Task[None] | None = None
        self._freezes = sandbox.freezes()
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timed_out = False
        self._abandoned = False
        self._over = False
        self.told = False
        """Whether all lines have been taken."""
        self._task = asyncio.create_task(self._drive())

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """What comes of it, as lines of JSON, as many at a time as there are; at once what ends soon. Whoever leaves
        before the end interrupts it, but for a freeze of the sandbox, which cuts all connections: then it goes on, and
        nobody hears."""
        try:
            while not self.told:
                if not self._events and not self._over:
                    await self._wait()
                yield self._take()
        finally:
            self._abandoned = True
            self._room.set()
            if not self._over:
                _keep(asyncio.create_task(self._stop_unless_frozen()))

    async def _wait(self) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(_KEEPALIVE):
                await self._news.wait()
        except TimeoutError:
            self._events.append(KEEPALIVE)

    def _take(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._events and size < _PIECE:
            taken.append(_line(self._events.popleft()))
            size += len(taken[-1])
        if len(self._events) < _MUCH // 2:
            self._room.set()
        if self._over and not self._events:
            self.told = True
            taken.append(_line(END))
        return b"".join(taken)

    async def _drive(self) -> None:
        try:
            async with aclosing(self._context.execute(self._code, self._begin)) as events:
                async for event in events:
                    await self._add(event)
        finally:
            if self._watching is not None:
                self._watching.cancel()
            self._finish()

    def _begin(self) -> Surroundings:
        self._begun = True
        if self._timeout is not None:
            self._watching = asyncio.create_task(self._watch(self._timeout))
        return Surroundings(*self._sandbox.now(), self._env)

    async def _add(self, event: Event) -> None:
        if self._abandoned or self._over:
            return
        if self._timed_out and event["type"] == "error":
            return  # of the interrupt: what it means is said at the end
        self._events.append(event)
        self._news.set()
        if len(self._events) >= _MUCH:
            self._room.clear()
            await self._room.wait()

    def _finish(self) -> None:
        if self._timed_out and not self._over:
            self._events.append(results.error("ExecutionTimeout", f"the code ran for longer than {self._timeout:g} s"))
        self._over = True
        self._news.set()

    async def _watch(self, timeout: float) -> None:
        await asyncio.sleep(timeout)
        self._timed_out = True
        stop = asyncio.create_task(self._interrupt())
        try:
            await asyncio.sleep(_STUBBORN)
            self._finish()
            await stop
        finally:
            stop.cancel()

    async def _stop_unless_frozen(self) -> None:
        if not self._begun:
            self._task.cancel()  # it need not begin
            return
        for _ in range(_GRACE):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self._context.wanted.wait()
            if self._sandbox.freezes() != self._freezes:
                return
            if self._context.wanted.is_set():
                break  # whoever is back already was not waiting for the end of a freeze
        await self._interrupt()

    async def _interrupt(self) -> None:
        while not self._task.done():
            self._context.interrupt()
            await asyncio.wait([self._task], timeout=_AGAIN)


def _line(event: Event) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


_kept: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """Until it is done: nobody else holds it."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)
