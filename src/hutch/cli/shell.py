"""`hutch shell`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hutch.cli.common import Connection, connection, find_sandbox, leave, run
from hutch.cli.console import err, note
from hutch.cli.terminal import session
from hutch.errors import InvalidRequest


def shell(
    ctx: typer.Context,
    sandbox: Annotated[str | None, typer.Argument(metavar="[SANDBOX]", help="Its id, or the beginning of it.")] = None,
    template: Annotated[
        str | None, typer.Option("--template", "-t", help="In a new sandbox of this template, destroyed afterwards.")
    ] = None,
    command: Annotated[str | None, typer.Option("--command", "-c", help="Run this instead of a shell.")] = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="As this user.")] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", "-w", help="In this directory.")] = None,
    attach: Annotated[str | None, typer.Option(metavar="EXEC", help="Come back to a terminal that was left.")] = None,
    network: Annotated[
        list[str], typer.Option(metavar="RULE", help="What a new sandbox may reach, as for `hutch run`.")
    ] = [],  # noqa: B006
) -> None:
    """Open a shell in a sandbox, or in a new one. Its exit code is this one's."""
    if sandbox and template:
        raise typer.BadParameter("give a sandbox or a --template, not both")
    if not sys.stdin.isatty():
        raise InvalidRequest("standard input is no terminal", hint="Use `hutch exec` in pipes and scripts.")
    link = connection(ctx)
    if sandbox:
        with link.client() as client:
            id = find_sandbox(client, sandbox)
        leave(run(session(link, id, command=command, cwd=cwd, user=user, attach=attach)))
    leave(_in_new(link, template, command, user, cwd, network))


def _in_new(
    link: Connection, template: str | None, command: str | None, user: str | None, cwd: str | None, network: list[str]
) -> int:
    with link.client() as client:
        with err.status("starting a sandbox"):
            made = client.sandboxes.create(template, network=network or None)
        with made:
            note(f"sandbox {made.id}; it is destroyed when you leave")
            return run(session(link, made.id, command=command, cwd=cwd, user=user))
