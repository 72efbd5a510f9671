"""Finds the guest of a sandbox quickly: what is needed to reach it does not change while it runs, so it is kept in
memory. When it cannot be reached any more, the database says why."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hutch.control.context import Context, not_running
from hutch.errors import GuestUnavailable, SandboxNotFound, SandboxNotRunning
from hutch.fleet import GuestClient
from hutch.store.sandboxes import SandboxRow

_KEPT = 4096


@dataclass(frozen=True)
class _Known:
    org: str
    guest: GuestClient


class Guests:
    """The guests of running sandboxes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: OrderedDict[str, _Known] = OrderedDict()

    @asynccontextmanager
    async def of(self, sandbox_id: str, org: str) -> AsyncIterator[GuestClient]:
        """Use it for one call. Raises `SandboxNotFound` and `SandboxNotRunning`, also when the sandbox turns out to
        have ended in the middle of the call."""
        known = self._known.get(sandbox_id)
        if known is None or known.org != org:
            known = _Known(org, self._context.guest_of(await self.row(sandbox_id, org)))
            self._known[sandbox_id] = known
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        try:
            yield known.guest
        except (SandboxNotRunning, GuestUnavailable):
            self._known.pop(sandbox_id, None)
            row = await self.row(sandbox_id, org)
            if row.state != "running":
                raise not_running(row) from None
            raise

    async def row(self, sandbox_id: str, org: str) -> SandboxRow:
        """The sandbox's row, in this org."""
        row = await self._context.store.sandboxes.get(sandbox_id)
        if row is None or row.org != org:
            raise SandboxNotFound(f"no sandbox {sandbox_id[:64]}")
        return row
