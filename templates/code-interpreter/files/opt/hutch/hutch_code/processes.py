"""Processes that kernels run in."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from hutch_code.kernels import KernelStopped


@dataclass(frozen=True)
class Process:
    """One that was started, the leader of a session of its own."""

    pid: int
    ended: asyncio.Future[str]
    """Done when it has: how, for a person."""


async def spawn(command: Sequence[str], cwd: str, *, out: int, err: int, keep: Sequence[int] = ()) -> Process:
    """A program with these descriptors as its output, and those in `keep` under their own numbers. Raises
    `KernelStopped`."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=keep,
            start_new_session=True,
        )
    except OSError as error:
        raise KernelStopped(f"the kernel could not be started: {error}") from None
    return Process(process.pid, asyncio.ensure_future(_ending(process)))


async def _ending(process: asyncio.subprocess.Process) -> str:
    return ending(await process.wait())


def ending(code: int) -> str:
    """What a status says; a negative one is a signal's."""
    if code >= 0:
        return f"the kernel ended with exit code {code}"
    try:
        return f"the kernel was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the kernel was killed by signal {-code}"
