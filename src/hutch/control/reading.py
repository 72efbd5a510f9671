"""Reads a process's output across interruptions: when the way to the guest is cut (the node restarts, the sandbox is
paused), it goes on from where it was, and the reader notices only a pause. Reading on wakes nobody: it waits for the
sandbox to be resumed by someone who needs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from hutch.control.guests import Guests
from hutch.errors import GuestUnavailable, NodeUnavailable, SandboxNotRunning
from hutch.fleet import Frame, FrameKind, Output, ProcessSpec
from hutch.model import ExecState
from hutch.store.sandboxes import ASLEEP

_PATIENCE = 30.0
_PAUSE = 0.25
_SIGN_OF_LIFE = 15.0
"""Seconds after which a reader whose sandbox sleeps is told that the line is not dead."""


class Reading:
    """The output of one process, opened. `frames` gives it; `aclose` lets go of it."""

    def __init__(self, guests: Guests, sandbox_id: str, org: str, exec_id: str, start: int, output: Output) -> None:
        self._guests = guests
        self._sandbox_id = sandbox_id
        self._org = org
        self._exec_id = exec_id
        self._place = start
        self._output = output

    @classmethod
    async def open(cls, guests: Guests, sandbox_id: str, org: str, exec_id: str, start: int = 0) -> Reading:
        """Raises what keeps it from being read."""
        return cls(guests, sandbox_id, org, exec_id, start, await _open(guests, sandbox_id, org, exec_id, start))

    @classmethod
    async def start(cls, guests: Guests, sandbox_id: str, org: str, spec: ProcessSpec) -> tuple[ExecState, Reading]:
        """Start the process and read it from its beginning. Raises what keeps it from being started."""
        state, output = await guests.again(sandbox_id, org, lambda guest: guest.start_and_follow(spec))
        return state, cls(guests, sandbox_id, org, state.id, 0, output)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Until the process has ended. Raises `SandboxNotRunning` when the sandbox ends before, `GuestUnavailable` or
        `NodeUnavailable` when the way stays cut."""
        try:
            while True:
                try:
                    async for frame in self._output:
                        self._place = frame.offset
                        if frame.kind is not FrameKind.KEEPALIVE:
                            self._guests.touch(self._sandbox_id)
                        if frame.kind is FrameKind.EXIT:
                            await self._output.finish()
                            yield frame
                            return
                        yield frame
                except GuestUnavailable:
                    pass
                await self._output.aclose()
                async for silence in self._reopen():
                    yield silence
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        await self._output.aclose()

    async def _reopen(self) -> AsyncGenerator[Frame, None]:
        """Open it again; gives a sign of life now and then while the sandbox is paused."""
        until = time.monotonic() + _PATIENCE
        while True:
            await asyncio.sleep(_PAUSE)
            if await self._guests.asleep(self._sandbox_id, self._org, _SIGN_OF_LIFE):
                yield Frame(FrameKind.KEEPALIVE, self._place, b"")
                until = time.monotonic() + _PATIENCE
                continue
            try:
                self._output = await _open(
                    self._guests, self._sandbox_id, self._org, self._exec_id, self._place, wake=False
                )
                return
            except (GuestUnavailable, NodeUnavailable):
                if time.monotonic() >= until:
                    raise
            except SandboxNotRunning as error:
                if error.extra.get("state") not in ASLEEP:
                    raise


async def _open(guests: Guests, sandbox_id: str, org: str, exec_id: str, start: int, *, wake: bool = True) -> Output:
    async with guests.of(sandbox_id, org, wake=wake) as guest:
        return await guest.output(exec_id, start)
