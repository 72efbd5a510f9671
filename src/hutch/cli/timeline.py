"""`hutch timeline`: the tree of snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox, short
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.units import age, human_bytes
from hutch.model import Sandbox, TimelineEntry

_REASON_STYLES = {"manual": "green", "safety": "yellow", "pause": "blue", "fork": "magenta"}


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
