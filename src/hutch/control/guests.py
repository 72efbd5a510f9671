"""Reaches the guest of a sandbox on somebody's behalf: wakes it when it is paused; when it cannot be reached any more,
the database says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import TypeVar

from hutch.control.context import Context, not_running
from hutch.control.known import Known, KnownGuests
from hutch.control.moves import Moves
from hutch.control.notifier import sandbox
from hutch.errors import ExecNotFound, GuestUnavailable, SandboxNotFound, SandboxNotRunning
from hutch.fleet import GuestClient, HungUp
from hutch.store.sandboxes import ASLEEP, LIVE, SandboxRow

T = TypeVar("T")
_AGAIN_AFTER = (0.02, 0.2)
"""Seconds."""
_LOOK = 2.0
"""Seconds after which the database is looked at without having been woken: another process may have written."""


class Guests:
    """The guests of sandboxes that run, or will when they are needed."""

    def __init__(self, context: Context, moves: Moves, known: KnownGuests) -> None:
        self._context = context
        self._moves = moves
        self._known = known

    @asynccontextmanager
    async def of(
        self, sandbox_id: str, org: str, *, wake: bool = True, reboot: bool = True, counts: bool = True
    ) -> AsyncIterator[GuestClient]:
        """Use it for one call. A paused sandbox is resumed first, or, without `wake`, is `SandboxNotRunning`; without
        `reboot` so is one whose memory was not saved. What does not count is no use: it does not keep it awake.

        Raises `SandboxNotFound` and `SandboxNotRunning`, also when the sandbox turns out to have ended in the middle
        of the call; `GuestUnavailable` when it was paused in the middle of it: again, and it is woken."""
        with self._known.using(sandbox_id) if counts else nullcontext():
            guest = self._known.get(sandbox_id, org)
            if guest is None:
                guest = await self._find(sandbox_id, org, wake, reboot)
            try:
                yield guest
            except (SandboxNotRunning, GuestUnavailable):
                self._known.forget(sandbox_id)
                row = await self.row(sandbox_id, org)
                if row.state == "running":
                    raise
                if row.state in LIVE:
                    raise GuestUnavailable(f"{row.id} was paused in the middle of the call") from None
                raise not_running(row) from None
            except ExecNotFound as error:
                raise await self._explained(sandbox_id, org, error) from None
            finally:
                if counts:
                    self._known.touch(sandbox_id)

    async def again(self, sandbox_id: str, org: str, call: Callable[[GuestClient], Awaitable[T]]) -> T:
        """`of`, for a call that may be made twice: it is when it was cut though the sandbox runs, as by a snapshot."""
        for pause in _AGAIN_AFTER:
            with suppress(HungUp):
                async with self.of(sandbox_id, org) as guest:
                    return await call(guest)
            await asyncio.sleep(pause)
        async with self.of(sandbox_id, org) as guest:
            return await call(guest)

    async def row(self, sandbox_id: str, org: str) -> SandboxRow:
        """The sandbox's row, in this org."""
        row = await self._context.store.sandboxes.get(sandbox_id)
        if row is None or row.org != org:
            raise SandboxNotFound(f"no sandbox {sandbox_id[:64]}")
        return row

    async def _explained(self, sandbox_id: str, org: str, error: ExecNotFound) -> ExecNotFound:
        """What there is not any more because memory did not survive is said so."""
        row = await self.row(sandbox_id, org)
        if row.resumed is None or row.resumed["memory"]:
            return error
        return ExecNotFound(f"{error.detail}: {row.id} was resumed from its disk, and all its processes are gone")

    async def asleep(self, sandbox_id: str, org: str, patience: float) -> bool:
        """Whether it is paused, after waiting for its end of that for up to `patience` seconds."""
        until = time.monotonic() + patience
        while True:
            bell = self._context.notifier.bell(sandbox(sandbox_id))
            if (await self.row(sandbox_id, org)).state not in ASLEEP:
                return False
            if (left := until - time.monotonic()) <= 0:
                return True
            await self._context.notifier.wait(bell, min(left, _LOOK))

    def touch(self, sandbox_id: str) -> None:
        """Somebody uses it, in a way that `of` does not see."""
        self._known.touch(sandbox_id)

    @contextmanager
    def using(self, sandbox_id: str) -> Iterator[None]:
        """Around what is longer than one call to the guest, and is waited for."""
        with self._known.using(sandbox_id):
            try:
                yield
            finally:
                self._known.touch(sandbox_id)

    async def passing(self, sandbox_id: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same chunks; as long as they flow, the sandbox is used."""
        async for chunk in chunks:
            self._known.touch(sandbox_id)
            yield chunk

    async def _find(self, sandbox_id: str, org: str, wake: bool, reboot: bool) -> GuestClient:
        age = self._known.age
        row = await self.row(sandbox_id, org)
        while row.state != "running" and wake:
            if not reboot and (settled := await self._moves.settled(row.id)).hibernated:
                raise not_running(settled)
            await self._moves.awake(row.id)
            age = self._known.age
            row = await self.row(sandbox_id, org)
        guest = self._context.guest_of(row)
        self._known.put(sandbox_id, Known(org, guest), age)
        return guest
