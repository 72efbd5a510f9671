"""`hutch identity`: the issuer of sandboxes' identity tokens; and what a new sandbox's say."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from hutch.cli.common import Json, connection
from hutch.cli.console import note, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import age, parse_duration
from hutch.model import Identity, Issuer

app = typer.Typer(no_args_is_help=True, help="The issuer of sandboxes' identity tokens.")

_SEVERAL = {"repository": "repositories", "permission": "permissions"}


@app.command("show")
def show(ctx: typer.Context, json: Json = False) -> None:
    """Show the issuer's URL and its keys."""
    with connection(ctx).client() as client:
        found = client.identity.get()
    _print(found, json)


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    grace: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="How long tokens of the old key still hold; 0s where it has leaked. Default: the setting.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Have the next key sign."""
    with connection(ctx).client() as client:
        found = client.identity.rotate(grace=grace)
    _print(found, json)


def identity_of(pairs: list[str]) -> Identity | None:
    """`app=reviewer`, `user=...`, `repository=...`, `permission=...`."""
    said: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in ("app", "user", *_SEVERAL):
            raise typer.BadParameter(f"{pair!r}: write app=, user=, repository= or permission=")
        if name in _SEVERAL:
            said.setdefault(_SEVERAL[name], []).append(value)
        else:
            said[name] = value
    try:
        return Identity.model_validate(said) if said else None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise typer.BadParameter(f"--identity: {first['loc'][0]}: {first['msg']}") from error


def _print(found: Issuer, json: bool) -> None:
    if json:
        return print_json(found)
    rows = table("KEY", "STATE", "AGE", "GONE")
    for key in found.keys:
        rows.add_row(key.id, key.state, age(key.created_at), f"{key.gone_at:%Y-%m-%d %H:%M}" if key.gone_at else "")
    out.print(rows)
    note(f"issuer {found.issuer}; tokens hold for {found.token_seconds:g} s")
