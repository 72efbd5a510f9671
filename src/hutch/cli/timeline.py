"""`hutch snapshot` and `hutch timeline`, and snapshots given by a name or the beginning of an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox, short
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.units import age, human_bytes
from hutch.errors import InvalidRequest, SnapshotNotFound
from hutch.model import Sandbox, TimelineEntry

_REASON_STYLES = {"manual": "green", "safety": "yellow", "pause": "blue", "fork": "magenta"}


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
    json: Json = False,
) -> None:
    """Save a point of a sandbox to come back to. It goes on."""
    with connection(ctx).client() as client:
        taken = client.sandboxes.get(find_sandbox(client, sandbox)).snapshot(name)
    if json:
        return print_json(taken)
    out.print(taken.id)
    if taken.stopped_ms:
        note(f"it stood still for {taken.stopped_ms:.0f} ms")


@snapshots.command("rm")
def remove(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    given: Annotated[
        list[str], typer.Argument(metavar="SNAPSHOT...", help="Their names, their ids, or the beginnings of them.")
    ],
    json: Json = False,
) -> None:
    """Delete snapshots of a sandbox's timeline. Not the one that a paused sandbox stands on."""
    with connection(ctx).client() as client:
        entries = client.sandboxes.get(find_sandbox(client, sandbox)).timeline()
        ids = list(dict.fromkeys(find_snapshot(entries, each).id for each in given))
        for id in ids:
            client.snapshots.delete(id)
    if json:
        return print_json(ids)
    for id in ids:
        out.print(id)


def timeline(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    full: Annotated[bool, typer.Option("--full", help="Whole ids.")] = False,
    json: Json = False,
) -> None:
    """Show the snapshots that a sandbox comes from and has, as a tree."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        found = handle.timeline()
    if json:
        return print_json(found)
    for mark, entry in zip(branches([entry.depth for entry in found]), found, strict=True):
        out.print(Text.assemble((mark, "dim"), _line(entry, handle.info, full)))
    if not found:
        note(f"no snapshots; `hutch snapshot {short(handle.id)}` takes one")


def branches(depths: Sequence[int]) -> list[str]:
    """What stands before each line of a tree, given as the depth of each line in order."""
    marks = []
    for index, depth in enumerate(depths):
        mark = ""
        for level in range(1, depth + 1):
            goes_on = _goes_on(depths[index + 1 :], level)
            if level == depth:
                mark += "├─ " if goes_on else "└─ "
            else:
                mark += "│  " if goes_on else "   "
        marks.append(mark)
    return marks


def _goes_on(following: Sequence[int], level: int) -> bool:
    """Whether another line of this level comes before the branch that it is on ends."""
    for depth in following:
        if depth <= level:
            return depth == level
    return False


def _line(entry: TimelineEntry, of: Sandbox, full: bool) -> Text:
    who = "" if entry.sandbox_id == of.id else f"of {entry.sandbox_id if full else short(entry.sandbox_id)}"
    here = "◀ here" if entry.id == of.snapshot else ""
    parts = [
        Text(entry.id if full else short(entry.id)),
        Text(entry.reason, style=_REASON_STYLES.get(entry.reason, "")),
        Text(f"turn {entry.turn}" if entry.turn is not None else "", style="cyan"),
        Text(one_line(entry.name or "", 60), style="bold"),
        Text(f"{age(entry.created_at)} ago", style="dim"),
        Text(human_bytes(entry.bytes), style="dim"),
        Text(who, style="dim"),
        Text(f"by {one_line(entry.created_by, 40)}" if entry.created_by else "", style="dim"),
        Text(here, style="bold blue"),
    ]
    return Text("  ").join(part for part in parts if part.plain)


def find_snapshot(entries: Sequence[TimelineEntry], given: str) -> TimelineEntry:
    """The one of the timeline that has this name (the newest of them) or id, or whose id begins so."""
    named = [entry for entry in entries if given in (entry.name, entry.id)]
    if named:
        return max(named, key=lambda entry: entry.created_at)
    beginning = given if given.startswith("snp_") else f"snp_{given}"
    found = [entry for entry in entries if entry.id.startswith(beginning)]
    if not found:
        raise SnapshotNotFound(f"there is no snapshot {given!r} in its timeline", hint="`hutch timeline` shows them.")
    if len(found) > 1:
        raise InvalidRequest(f"{given!r} is the beginning of {len(found)} ids", hint="Give more of it.")
    return found[0]
