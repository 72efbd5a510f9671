"""Running the programs that a build needs: their output line by line, and no process left behind, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from hutch.errors import TemplateBuildFailed

LineSink = Callable[[str], Awaitable[None]]

_READ = 1 << 16
_MAX_LINE = 1 << 16
_TAIL = 30

PRIVATE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
"""Prefix that gives a command a mount and a process namespace of its own. If this process dies, the command and all it
has started die with it, and none of its mounts were ever visible outside."""


async def run(argv: Sequence[str], *, what: str, log: LineSink, env: dict[str, str] | None = None) -> None:
    """Run a command to its end, each line of its output given to `log`. `what` names it in the error.

    Raises `TemplateBuildFailed` with the last lines when it exits with anything but 0.
    """
    process = await _start(argv, env)
    tail: deque[str] = deque(maxlen=_TAIL)
    try:
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            tail.append(line)
            await log(line)
        code = await process.wait()
    except BaseException:
        await _kill(process)
        raise
    if code != 0:
        raise TemplateBuildFailed(f"{what} failed with exit code {code}", log="\n".join(tail))


async def output(argv: Sequence[str], *, what: str) -> str:
    """What a short command prints."""
    lines: list[str] = []

    async def keep(line: str) -> None:
        lines.append(line)

    await run(argv, what=what, log=keep)
    return "\n".join(lines)


async def _start(argv: Sequence[str], env: dict[str, str] | None) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise TemplateBuildFailed(
            f"{error.filename} is not installed",
            hint="`make setup` installs what builds need; `hutch doctor` checks it.",
        ) from error


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines without their ends; carriage returns (progress bars) end lines as well, and endless lines are cut."""
    rest = b""
    while chunk := await stream.read(_READ):
        *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        if len(rest) > _MAX_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            if line.strip():
                yield line.decode(errors="replace")
    if rest.strip():
        yield rest.decode(errors="replace")
