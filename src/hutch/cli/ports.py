"""`hutch port`: the ways to what listens in a sandbox."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox
from hutch.cli.console import out, print_json
from hutch.cli.sandboxes import table
from hutch.errors import InvalidRequest
from hutch.model import Port


def port(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    port: Annotated[int | None, typer.Argument(help="Without one, those that are public are listed.")] = None,
    public: Annotated[
        bool | None,
        typer.Option(
            "--public/--private", help="Let anybody reach it; or, again, only who has the token.", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print how a port of a sandbox is reached from outside, and say by whom."""
    if port is None and public is not None:
        hint = f"Such as `hutch port {sandbox} 8000 --{'public' if public else 'private'}`."
        raise InvalidRequest("--public and --private are said of a port", hint=hint)
    with connection(ctx).client() as client:
        ports = client.sandboxes.get(find_sandbox(client, sandbox)).ports
        if port is None:
            return _list(ports.list(), json)
        found = ports.get(port) if public is None else ports.publish(port) if public else ports.unpublish(port)
    print_json(found) if json else out.print(_as_curl(found), soft_wrap=True)


def _list(ports: list[Port], json: bool) -> None:
    if json:
        return print_json(ports)
    rows = table("PORT", "URL")
    for each in ports:
        rows.add_row(str(each.port), each.url)
    out.print(rows)


def _as_curl(port: Port) -> Text:
    """A command that reaches it: with the token in it, where it needs one."""
    words = ["curl", port.url]
    for name, value in port.headers.items():
        words += ["-H", f"{name}: {value}"]
    return Text(shlex.join(words))
