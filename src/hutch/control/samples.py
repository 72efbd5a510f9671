"""What sandboxes of E2B's API have used over time. In this process's memory, within bounds: a server that is started
again begins anew."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Iterator

import structlog

from hutch.control.context import Context
from hutch.control.guests import Guests
from hutch.control.together import each
from hutch.errors import HutchError
from hutch.model import GuestFigures

log = structlog.get_logger("hutch.control")

_EVERY = 15.0
_FINE, _COARSE = 120, 288
"""Kept of each sandbox: of the last half hour all, of the last day one in twenty."""
_ONE_IN = 20
_PATIENCE = 5.0
_PACKED = struct.Struct("<dqd5q")


class History:
    """Of one sandbox, oldest first."""

    def __init__(self) -> None:
        self._fine: deque[bytes] = deque(maxlen=_FINE)
        self._coarse: deque[bytes] = deque(maxlen=_COARSE)
        self._added = 0

    def add(self, at: float, figures: GuestFigures) -> None:
        """As it is at this Unix time."""
        packed = _PACKED.pack(at, *figures.model_dump().values())
        self._fine.append(packed)
        if self._added % _ONE_IN == 0:
            self._coarse.append(packed)
        self._added += 1

    def __iter__(self) -> Iterator[tuple[float, GuestFigures]]:
        first = _time(self._fine[0]) if self._fine else 0.0
        for packed in (*(older for older in self._coarse if _time(older) < first), *self._fine):
            at, *values = _PACKED.unpack(packed)
            yield at, GuestFigures(**dict(zip(GuestFigures.model_fields, values, strict=True)))


class Samples:
    """Asks the guests now and then."""

    def __init__(self, context: Context, guests: Guests) -> None:
        self._rows = context.store.e2b
        self._guests = guests
        self._histories: dict[str, History] = {}

    def of(self, sandbox_id: str) -> list[tuple[float, GuestFigures]]:
        """Unix times and figures, oldest first."""
        return list(self._histories.get(sandbox_id, ()))

    async def watch(self) -> None:
        """For ever."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("figures of use cannot be taken; it is tried again")
            await asyncio.sleep(_EVERY)

    async def sweep(self) -> None:
        """Once: those that run, and forget those that are gone."""
        found = await self._rows.living()
        for gone in self._histories.keys() - {id for id, _, _ in found}:
            del self._histories[gone]
        await each([(id, org) for id, org, state in found if state == "running"], self._ask)

    async def _ask(self, one: tuple[str, str]) -> None:
        """A guest that does not answer has no figures of now."""
        try:
            async with asyncio.timeout(_PATIENCE), self._guests.of(*one, wake=False, counts=False) as guest:
                figures = await guest.figures()
        except (HutchError, TimeoutError) as error:
            log.debug("no figures of use", sandbox=one[0], error=str(error))
            return
        self._histories.setdefault(one[0], History()).add(time.time(), figures)


def _time(packed: bytes) -> float:
    at: float = struct.unpack_from("<d", packed)[0]
    return at
