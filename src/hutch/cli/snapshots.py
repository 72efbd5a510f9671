"""`hutch snapshot`, and snapshots given by a name or the beginning of an id."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox, short
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.sandboxes import table
from hutch.cli.units import age, human_bytes
from hutch.errors import InvalidRequest, SnapshotNotFound
from hutch.model import Snapshot
from hutch.sdk import Hutch

S = TypeVar("S", bound=Snapshot)


class SnapshotGroup(TyperGroup):
    """`hutch snapshot SANDBOX` takes one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["take", *args]
        return super().parse_args(ctx, args)


snapshots = typer.Typer(
    cls=SnapshotGroup, no_args_is_help=True, help="Save points of a sandbox (`take` may be left out)."
)


@snapshots.command("take")
def take(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    name: Annotated[str | None, typer.Option("--name", "-n", help="A tag to find it by; it is kept then.")] = None,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Keep the files apart too, to boot from where memory does not fit.")
    ] = False,
    json: Json = False,
) -> None:
    """Save a point of a sandbox to come back to. It goes on."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        taken = handle.snapshot(name, fallback="disk" if fallback else None)
    if json:
        return print_json(taken)
    out.print(taken.id)
    if taken.stopped_ms:
        note(f"it stood still for {taken.stopped_ms:.0f} ms")


@snapshots.command("ls")
def list_(
    ctx: typer.Context,
    full: Annotated[bool, typer.Option("--full", help="Whole ids.")] = False,
    json: Json = False,
) -> None:
    """List all snapshots, also of sandboxes that are gone, and what they take together."""
    with connection(ctx).client() as client:
        found, usage = client.snapshots.list(), client.snapshots.usage()
    if json:
        return print_json({"snapshots": [each.model_dump(mode="json") for each in found], "usage": usage.model_dump()})
    rows = table("SNAPSHOT", "SANDBOX", "REASON", "NAME", "AGE", "SIZE")
    for each in found:
        ids = (each.id, each.sandbox_id) if full else (short(each.id), short(each.sandbox_id))
        rows.add_row(*ids, each.reason, one_line(each.name or "", 40), age(each.created_at), human_bytes(each.bytes))
    out.print(rows)
    taken = human_bytes(usage.stored_bytes + usage.pending_bytes)
    most = f" of {human_bytes(usage.limit_bytes)} that they may" if usage.limit_bytes is not None else ""
    note(f"{human_bytes(usage.logical_bytes)} in {usage.snapshots} take {taken}{most} in the store")


@snapshots.command("rm")
def remove(
    ctx: typer.Context,
    given: Annotated[
        list[str],
        typer.Argument(metavar="[SANDBOX] SNAPSHOT...", help="Their ids, or the beginnings; of a sandbox, names."),
    ],
    json: Json = False,
) -> None:
    """Delete snapshots. Not the one that a paused sandbox stands on."""
    with connection(ctx).client() as client:
        ids = list(dict.fromkeys(_meant(client, given)))
        for id in ids:
            client.snapshots.delete(id)
    if json:
        return print_json(ids)
    for id in ids:
        out.print(id)


@snapshots.command("export")
def export(
    ctx: typer.Context,
    given: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id, its name, or the beginning of its id.")],
    file: Annotated[Path, typer.Argument(help="Where to; `-`: standard output.", dir_okay=False, allow_dash=True)],
    json: Json = False,
) -> None:
    """Write a snapshot into one file. It holds all that was in the sandbox's memory."""
    with connection(ctx).client() as client:
        found = find_snapshot(client.snapshots.list(), given)
        size = client.snapshots.export(found.id, sys.stdout.buffer if str(file) == "-" else file)
    if not json:
        note(f"{found.id}: {human_bytes(size)}")
    elif str(file) != "-":
        print_json({"snapshot": found.id, "file": str(file), "bytes": size})


@snapshots.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="What `export` wrote; `-`: standard input.")],
    json: Json = False,
) -> None:
    """Take in a snapshot that this installation has exported; `hutch run --from` makes a sandbox of it."""
    if str(file) != "-" and not file.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    with connection(ctx).client() as client:
        taken = client.snapshots.import_(sys.stdin.buffer if str(file) == "-" else file)
    if json:
        return print_json(taken)
    out.print(taken.id)


def _meant(client: Hutch, given: list[str]) -> list[str]:
    if given[0].startswith("snp_"):
        everything = client.snapshots.list()
        return [find_snapshot(everything, each).id for each in given]
    if len(given) == 1:
        raise typer.BadParameter("give a SANDBOX and its snapshots, or ids of snapshots (snp_...)")
    entries = client.sandboxes.get(find_sandbox(client, given[0])).timeline()
    return [find_snapshot(entries, each).id for each in given[1:]]


def find_snapshot(entries: Sequence[S], given: str) -> S:
    """The one of these that has this name (the newest of them) or id, or whose id begins so."""
    named = [entry for entry in entries if given in (entry.name, entry.id)]
    if named:
        return max(named, key=lambda entry: entry.created_at)
    beginning = given if given.startswith("snp_") else f"snp_{given}"
    found = [entry for entry in entries if entry.id.startswith(beginning)]
    if not found:
        raise SnapshotNotFound(f"there is no snapshot {given!r}", hint="`hutch snapshot ls` shows all.")
    if len(found) > 1:
        raise InvalidRequest(f"{given!r} is the beginning of {len(found)} ids", hint="Give more of it.")
    return found[0]
