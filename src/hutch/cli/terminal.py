"""This terminal joined to one in a sandbox."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hutch.cli.common import Connection
from hutch.cli.console import note
from hutch.errors import InvalidRequest
from hutch.sdk import AsyncPty


def as_text(command: str | list[str]) -> str:
    """A command as the text that a shell takes."""
    return command if isinstance(command, str) else shlex.join(command)


async def session(
    link: Connection, id: str, *, command: str | None, cwd: str | None, user: str | None, attach: str | None = None
) -> int:
    """Stay until the process in the sandbox ends; its exit code."""
    if not sys.stdin.isatty():
        raise InvalidRequest("standard input is no terminal", hint="Use `hutch exec` in pipes and scripts.")
    async with link.async_client() as client:
        sandbox = await client.sandboxes.get(id)
        cols, rows = _size()
        async with sandbox.pty(command, cols=cols, rows=rows, cwd=cwd, user=user, attach=attach) as pty:
            with raw_mode():
                await _join(pty)
        for breach in pty.breaches:
            note(breach.message, "red")
        return pty.exit_code if pty.exit_code is not None else 1


@contextmanager
def raw_mode() -> Iterator[None]:
    """Every key goes through as it is, Ctrl-C too; the terminal is restored whatever happens."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed while the shell was opened is for it, too
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


async def _join(pty: AsyncPty) -> None:
    loop = asyncio.get_running_loop()
    keys: asyncio.Queue[bytes] = asyncio.Queue()
    resized = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: keys.put_nowait(os.read(sys.stdin.fileno(), 1 << 16)))
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    helpers = [loop.create_task(_type(pty, keys)), loop.create_task(_follow_size(pty, resized))]
    try:
        async for data in pty:
            await asyncio.to_thread(_write, data)
    finally:
        loop.remove_reader(sys.stdin.fileno())
        loop.remove_signal_handler(signal.SIGWINCH)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _type(pty: AsyncPty, keys: asyncio.Queue[bytes]) -> None:
    while data := await keys.get():
        await pty.write(data)
    with suppress(Exception):  # the terminal is gone: so is the session
        await pty.kill()


async def _follow_size(pty: AsyncPty, resized: asyncio.Event) -> None:
    while await resized.wait():
        resized.clear()
        cols, rows = _size()
        await pty.resize(cols, rows)


def _size() -> tuple[int, int]:
    """Columns and rows of the terminal itself: COLUMNS and LINES, where they are exported, tell what it once was."""
    cols, rows = os.get_terminal_size(sys.stdin.fileno())
    if not (cols and rows):  # a serial line knows no size
        cols, rows = shutil.get_terminal_size()
    return cols, rows


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sys.stdout.fileno(), view) :]
