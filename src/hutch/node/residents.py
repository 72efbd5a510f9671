"""Resident processes: what a template's recipe wants running in each of its sandboxes, and how it is known to be ready.

They are started before the sandbox is anybody's: a sandbox that is thawed from the template's snapshot has them from
the same moment of their lives as one that is booted.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from hutch.errors import BootFailed, GuestUnavailable
from hutch.model import Recipe
from hutch.node.guest import GuestClient
from hutch.node.guest_processes import GuestProcesses

log = structlog.get_logger("hutch.node")

_LOOK = 0.1
_SETTLE = 1.0
"""Seconds that resident processes must live when the recipe has no readiness check."""
_BETWEEN = 0.3
"""Seconds between two tries of the readiness check."""
_CHECK = "ready"
_LINE = 200


class Residents:
    """Starts them through the guest, whose answers are believed only as far as to say that it failed."""

    def __init__(self, guests: GuestClient) -> None:
        self._guests = guests

    async def start(self, recipe: Recipe, address: str, token: str) -> None:
        """Start them and wait until they are ready. Raises `BootFailed`, with the last of what was printed, when one
        dies or the readiness check does not succeed in time."""
        processes = GuestProcesses(self._guests, address, token)
        try:
            for number, command in enumerate(recipe.start):
                await processes.start(_name(number), command)
            if recipe.ready is not None:
                await self._ready(recipe, recipe.ready, processes)
            else:
                await self._settled(recipe, processes)
        except GuestUnavailable as error:
            raise BootFailed(f"resident processes were not started: {error.detail}") from error

    async def _settled(self, recipe: Recipe, processes: GuestProcesses) -> None:
        end = time.monotonic() + _SETTLE
        while time.monotonic() < end:
            await asyncio.sleep(_LOOK)
            await self._check_alive(recipe, processes)

    async def _ready(self, recipe: Recipe, command: str, processes: GuestProcesses) -> None:
        end = time.monotonic() + recipe.ready_timeout
        said = ""
        while True:
            await self._check_alive(recipe, processes)
            left = end - time.monotonic()
            if await self._try(command, processes, left):
                return await self._check_alive(recipe, processes)
            said = await processes.tail(_CHECK) or said  # the last try may have had no time to say anything
            if end - time.monotonic() <= _BETWEEN:
                raise BootFailed(
                    f"not ready within {recipe.ready_timeout:g} s: {command!r} did not exit with 0{_last_line(said)}",
                    hint="`ready` in template.toml is the check, `ready_timeout` its time limit.",
                    log=said,
                )
            await processes.forget(_CHECK)
            await asyncio.sleep(_BETWEEN)

    async def _try(self, command: str, processes: GuestProcesses, within: float) -> bool:
        """Whether the check succeeds. The guest kills one that takes too long."""
        await processes.start(_CHECK, command, timeout=max(within, _LOOK))
        end = time.monotonic() + within + 1.0
        state = await processes.state(_CHECK)
        while state.running and time.monotonic() < end:
            await asyncio.sleep(_LOOK)
            state = await processes.state(_CHECK)
        if state.running or state.exit_code != 0:
            return False
        await processes.forget(_CHECK)
        return True

    async def _check_alive(self, recipe: Recipe, processes: GuestProcesses) -> None:
        for number, command in enumerate(recipe.start):
            state = await processes.state(_name(number))
            if not state.running and state.exit_code != 0:
                how = f"exit code {state.exit_code}" if state.exit_code is not None else f"{state.signal or 'a signal'}"
                said = await processes.tail(_name(number))
                raise BootFailed(f"resident process {command!r} ended with {how}{_last_line(said)}", log=said)


def _last_line(said: str) -> str:
    """For the error itself; all of it is its `log`."""
    return f"; it said: {said.splitlines()[-1][:_LINE]}" if said else ""


def _name(number: int) -> str:
    return f"resident-{number}"
