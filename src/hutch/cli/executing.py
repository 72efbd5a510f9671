"""`hutch exec`: a command in a sandbox, as if it ran here."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import typer

from hutch.cli import terminal
from hutch.cli.common import Connection, Json, SandboxArgument, connection, find_sandbox, leave, run
from hutch.cli.console import note, print_json
from hutch.cli.units import parse_duration
from hutch.errors import HutchError
from hutch.sdk import AsyncProcess, AsyncSandbox, Output

_FORWARDED = (signal.SIGINT, signal.SIGTERM)


def exec_(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND...", help="The command and its arguments.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="As this user.")] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="In this directory.")] = None,
    env: Annotated[list[str], typer.Option("--env", "-e", help="NAME=VALUE, or NAME to take it from here.")] = [],  # noqa: B006
    timeout: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="DURATION", help="Kill it after this.")
    ] = None,
    sh: Annotated[bool, typer.Option("--shell", "-c", help="The command is one text for `bash -l`.")] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running; print its id.")] = False,
    json: Json = False,
) -> None:
    """Run a command in a sandbox. Input that is piped in goes to it; its exit code is this one's.

    Options stand before the sandbox: `hutch exec --user root SANDBOX -- ls -la /root`.
    """
    argv = command or []
    if argv and argv[0].startswith("-") and argv[0] != "--":
        raise typer.BadParameter(f"{argv[0]}: options stand before the sandbox, the command after `--`")
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if not argv:
        raise typer.BadParameter("give a command; `hutch shell` opens a shell")
    options = {"env": read_env(env), "cwd": cwd, "user": user, "timeout": timeout}
    text: str | list[str] = " ".join(argv) if sh else argv
    link = connection(ctx)
    with link.client() as client:
        id = find_sandbox(client, sandbox)
    if tty:
        leave(run(terminal.session(link, id, command=terminal.as_text(text), cwd=cwd, user=user)))
    leave(run(_exec(link, id, text, options, detach, json)))


def read_env(pairs: list[str]) -> dict[str, str]:
    """`NAME=VALUE`, or `NAME` for the value it has here."""
    env = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not name or (not found and name not in os.environ):
            raise typer.BadParameter(f"{pair!r}: write NAME=VALUE, or the NAME of a variable that is set here")
        env[name] = value if found else os.environ[name]
    return env


async def _exec(
    link: Connection, id: str, command: str | list[str], options: dict[str, Any], detach: bool, json: bool
) -> int:
    async with link.async_client() as client:
        sandbox = await client.sandboxes.get(id)
        feed = not detach and not sys.stdin.isatty()
        process = await sandbox.start(command, open_stdin=feed, **options)
        if detach:
            print_json(process.state) if json else sys.stdout.write(process.id + "\n")
            return 0
        return await _attend(sandbox, process, feed, json)


async def _attend(sandbox: AsyncSandbox, process: AsyncProcess, feed: bool, json: bool) -> int:
    """Pass everything through until the end. An interrupt is the process's; a second one kills it."""
    loop, interrupts = asyncio.get_running_loop(), 0
    signals: set[asyncio.Task[None]] = set()

    def forward(number: int) -> None:
        nonlocal interrupts
        interrupts += 1
        name = signal.Signals(number).name if interrupts == 1 else "SIGKILL"
        signals.add(loop.create_task(_signal(process, name)))

    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    feeder = loop.create_task(_feed(process)) if feed else None
    try:
        async for output in process:
            show_output(output, json)
    finally:
        if feeder:
            feeder.cancel()
            await asyncio.gather(feeder, *signals, return_exceptions=True)
    state = process.state
    if state.timed_out and not json:
        note(f"killed: the timeout is over after {_seconds(process)}", "yellow")
    return state.exit_code if state.exit_code is not None else 1


def _seconds(process: AsyncProcess) -> str:
    state = process.state
    if state.started_at and state.ended_at:
        return f"{(state.ended_at - state.started_at).total_seconds():.1f} s"
    return "its time"


async def _signal(process: AsyncProcess, name: str) -> None:
    with suppress(HutchError):
        await process.signal(name)


async def _feed(process: AsyncProcess) -> None:
    """Standard input, as it comes, and its end."""
    with suppress(HutchError):  # the process may have ended meanwhile
        async for chunk in _stdin():
            await process.write(chunk)
        await process.close_stdin()


def _waits(descriptor: int) -> bool:
    """Whether a read may have to wait, as from a pipe. Files and /dev/null never make it, and cannot be polled."""
    with select.epoll() as poll:
        try:
            poll.register(descriptor, select.EPOLLIN)
        except PermissionError:
            return False
    return True


async def _stdin() -> AsyncIterator[bytes]:
    if not _waits(sys.stdin.fileno()):
        while chunk := await asyncio.to_thread(os.read, sys.stdin.fileno(), 1 << 18):
            yield chunk
        return
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while chunk := await reader.read(1 << 18):
        yield chunk


def show_output(output: Output, json: bool) -> None:
    if json:
        print_json(
            {
                "type": output.kind,
                "offset": output.offset,
                "data": output.text or None,
                "breach": output.breach,
                "exec": output.state,
            }
        )
    elif output.kind in ("stdout", "pty", "stderr"):
        stream = sys.stderr.buffer if output.kind == "stderr" else sys.stdout.buffer
        stream.write(output.data)
        stream.flush()
    elif output.kind == "limit" and output.breach:
        note(output.breach.message, "red")
    elif output.kind == "gap":
        note("some output was dropped: it came faster than it was read", "yellow")
