"""`hutch diff`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox
from hutch.cli.console import clean, note, one_line, out, print_json
from hutch.cli.snapshots import find_snapshot
from hutch.cli.units import human_bytes
from hutch.model import Diff, FileChange, FileState

_SIGNS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}
_LINES = {"+": "green", "-": "red", "@": "cyan"}
_WHY_NOT = {"binary": "no text", "too_large": "too large to compare", "limit": "left out: the answer is full"}


def diff(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    from_snapshot: Annotated[
        str | None, typer.Argument(metavar="[FROM]", help="Of its timeline. Without: the template's image.")
    ] = None,
    to_snapshot: Annotated[
        str | None, typer.Argument(metavar="[TO]", help="A snapshot of its timeline. Without: as it is now.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", "-t", help="Show what has changed inside text files.")] = False,
    path: Annotated[str, typer.Option("--path", "-p", help="Only this, and what is below it.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Most changes to list.")] = 1000,
    json: Json = False,
) -> None:
    """Show which files differ between two points of a sandbox."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        tree = handle.timeline() if from_snapshot or to_snapshot else []
        points = [find_snapshot(tree, given) if given else None for given in (from_snapshot, to_snapshot)]
        found = handle.diff(*points, path=path, text=text, limit=limit)
    if json:
        return print_json(found)
    _show(found)


def _show(found: Diff) -> None:
    for change in found.changes:
        out.print(_line(change), soft_wrap=True)
        if change.text is not None:
            for line in change.text.splitlines():
                out.print(Text(clean(line), style=_LINES.get(line[:1], "")), soft_wrap=True)
        elif change.no_text is not None:
            out.print(Text(f"  ({_WHY_NOT[change.no_text]})", style="dim"))
    note(f"{found.added} added, {found.changed} changed, {found.removed} removed")
    if found.truncated:
        note(f"the first {len(found.changes)} are listed; `--path` or `--limit` shows others")


def _line(change: FileChange) -> Text:
    sign, style = _SIGNS[change.change]
    return Text.assemble(
        (f"{sign} {one_line(change.path, 4096)}", style), (_detail(change.before, change.after), "dim")
    )


def _detail(before: FileState | None, after: FileState | None) -> str:
    """What is worth knowing of the two."""
    if before is None or after is None:
        return _size(before or after)
    parts = [f"{old} → {new}" for old, new in _differing(before, after) if old != new]
    return "  " + ", ".join(parts) if parts else _size(after)


def _differing(before: FileState, after: FileState) -> list[tuple[str, str]]:
    return [
        (before.type, after.type),
        (before.mode, after.mode),
        (f"{before.uid}:{before.gid}", f"{after.uid}:{after.gid}"),
        (human_bytes(before.size or 0), human_bytes(after.size or 0)),
    ]


def _size(state: FileState | None) -> str:
    if state is None or state.size is None:
        return f"  {state.type}" if state is not None else ""
    return f"  {human_bytes(state.size)}"
