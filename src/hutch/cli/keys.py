"""`hutch key`."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.common import Json, connection
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import age, parse_duration
from hutch.errors import InvalidRequest, NotFound
from hutch.model import ApiKey
from hutch.sdk import Hutch

app = typer.Typer(no_args_is_help=True, help="API keys.")


@app.command("ls")
def list_keys(ctx: typer.Context, json: Json = False) -> None:
    """List the keys, without their secrets."""
    with connection(ctx).client() as client:
        found = client.keys.list()
    if json:
        return print_json(found)
    rows = table("KEY", "NAME", "BEGINS", "AGE", "USED", "STATE")
    for key in found:
        used = f"{age(key.last_used_at)} ago" if key.last_used_at else "never"
        rows.add_row(key.id, one_line(key.name, 40), key.prefix, age(key.created_at), used, _state(key))
    out.print(rows)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    expires_in: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="DURATION", help="For example 30d.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key and print it. It is never shown again."""
    with connection(ctx).client() as client:
        made = client.keys.create(name, expires_in=expires_in)
    if json:
        return print_json(made)
    out.print(made.key)
    note(f"{made.id}: keep it, it is never shown again")


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Its id, its name, or how it begins.")],
    json: Json = False,
) -> None:
    """End a key, at once."""
    with connection(ctx).client() as client:
        found = _find(client, key)
        client.keys.revoke(found.id)
    print_json({"id": found.id}) if json else out.print(found.id)


def _find(client: Hutch, given: str) -> ApiKey:
    live = [key for key in client.keys.list() if key.revoked_at is None]
    by_id = [key for key in live if key.id == given]
    by_name = [key for key in live if key.name == given]
    by_beginning = [key for key in live if key.prefix.startswith(given)]
    for found in (by_id, by_name, by_beginning):
        if len(found) > 1:
            raise InvalidRequest(f"{given!r} stands for {len(found)} keys", hint="Give the id: `hutch key ls`.")
        if found:
            return found[0]
    raise NotFound(f"there is no key {given!r}", hint="`hutch key ls` lists them.")


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    return f"expires {key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "live"
