"""`hutch volume`; and which ones a new sandbox has."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli.common import Json, connection
from hutch.cli.console import note, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import age, human_bytes

app = typer.Typer(no_args_is_help=True, help="Files that outlive sandboxes, and are shared by several.")


@app.command("ls")
def list_volumes(ctx: typer.Context, json: Json = False) -> None:
    """List the volumes."""
    with connection(ctx).client() as client:
        found = client.volumes.list()
    if json:
        return print_json(found)
    rows = table("VOLUME", "NAME", "AGE")
    for volume in found.volumes:
        rows.add_row(volume.id, volume.name, age(volume.created_at))
    out.print(rows)
    note(f"{human_bytes(found.used_bytes)} together")


@app.command("create")
def create(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="What it is mounted by.")], json: Json = False
) -> None:
    """Make an empty one: `hutch run --volume NAME:/data` has it at /data."""
    with connection(ctx).client() as client:
        made = client.volumes.create(name)
    print_json(made) if json else out.print(made.id)


@app.command("rm")
def remove(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="Its name or id.")], json: Json = False
) -> None:
    """Delete one with its files. Not while a sandbox has it, though that be paused."""
    with connection(ctx).client() as client:
        found = client.volumes.get(name)
        client.volumes.delete(found.id)
    print_json({"id": found.id}) if json else out.print(found.id)


def volumes_of(given: list[str]) -> dict[str, str] | None:
    """`NAME:PATH`, as paths with names."""
    mounts: dict[str, str] = {}
    for each in given:
        name, colon, path = each.partition(":")
        if not colon or not name or not path.startswith("/"):
            raise typer.BadParameter(f"{each!r}: write --volume NAME:/PATH")
        mounts[path] = name
    return mounts or None
