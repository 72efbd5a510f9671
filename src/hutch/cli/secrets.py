"""`hutch secret`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hutch.cli.common import Json, connection
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import age
from hutch.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Secrets: what sandboxes use and never see.")

Name = Annotated[str, typer.Argument(help="Such as GITHUB_TOKEN; sandboxes have a variable of this name.")]


@app.command("set")
def set_secret(
    ctx: typer.Context,
    name: Name,
    hosts: Annotated[
        list[str],
        typer.Option(
            "--for",
            metavar="HOST[,HOST]",
            help="Where it may be sent, over TLS: api.github.com, '*.example.com', example.com:8443.",
        ),
    ] = [],  # noqa: B006
    places: Annotated[
        list[str],
        typer.Option(
            "--as",
            metavar="PLACE[,PLACE]",
            help="Where in a request: bearer, basic (default: both), header:NAME, query:NAME. "
            "Or env: the sandbox is given the value itself.",
        ),
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Keep a secret, or give it another value. It is asked for, or read from standard input."""
    value = _read_value(name)
    with connection(ctx).client() as client:
        made = client.secrets.set(name, value, hosts=_split(hosts), places=_split(places) or None)
    if json:
        return print_json(made)
    note(f"{made.name}: for {', '.join(made.hosts) or 'any host'}, as {', '.join(made.places)}")


@app.command("ls")
def list_secrets(ctx: typer.Context, json: Json = False) -> None:
    """List the secrets, without their values."""
    with connection(ctx).client() as client:
        found = client.secrets.list()
    if json:
        return print_json(found)
    rows = table("SECRET", "FOR", "AS", "SET")
    for each in found:
        hosts = one_line(", ".join(each.hosts) or "any host", 60)
        rows.add_row(each.name, hosts, ", ".join(each.places), f"{age(each.updated_at)} ago")
    out.print(rows)


@app.command("rm")
def remove(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Forget a secret."""
    with connection(ctx).client() as client:
        client.secrets.delete(name)
    print_json({"name": name}) if json else out.print(name)


@app.command("rekey")
def rekey(ctx: typer.Context, json: Json = False) -> None:
    """Encrypt all secrets with a new key, and forget the old one."""
    with connection(ctx).client() as client:
        count = client.secrets.rekey()
    print_json({"secrets": count}) if json else note(f"{count} secrets are encrypted with a new key")


def _read_value(name: str) -> str:
    """Never from the arguments: other users of a machine see those."""
    if sys.stdin.isatty():
        value: str = typer.prompt(f"Value of {name}", hide_input=True, err=True)
        return value
    text = sys.stdin.read((1 << 16) + 1)
    if not text.strip():
        raise InvalidRequest("there is no value on standard input", hint=f"hutch secret set {name} ... < FILE")
    return text.removesuffix("\n").removesuffix("\r")


def _split(words: list[str]) -> list[str]:
    """`a,b` is `a` and `b`; the ports of a host (`h:1,2`) stay with it."""
    found: list[str] = []
    for part in (part.strip() for word in words for part in word.split(",")):
        if part.isdecimal() and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found
