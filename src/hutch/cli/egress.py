"""`hutch egress`: what a sandbox reaches."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.common import Connection, Json, SandboxArgument, connection, find_sandbox, leave, run
from hutch.cli.console import one_line, out, print_json
from hutch.cli.units import human_bytes
from hutch.model.egress import EgressEntry


def egress(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until you stop it.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="Only what was refused.")] = False,
    json: Json = False,
) -> None:
    """Show what a sandbox has reached and what it was refused, and why."""
    link = connection(ctx)
    with link.client() as client:
        id = find_sandbox(client, sandbox)
    leave(run(_show(link, id, follow, refused, json)))


async def _show(link: Connection, id: str, follow: bool, refused: bool, json: bool) -> int:
    async with link.async_client() as client:
        made, after = await client.sandboxes.get(id), 0
        while True:
            entries = await made.egress(after, limit=1000, wait=20 if follow else 0)
            for entry in entries:
                if not (refused and entry.allowed):
                    print_json(entry) if json else out.print(_line(entry))
                after = entry.seq
            if not entries and not follow:
                return 0


def _line(entry: EgressEntry) -> Text:
    text = one_line(entry.message, 160) + (f" ×{entry.count}" if entry.count > 1 else "")
    if entry.sent is not None:
        text += f"  {human_bytes(entry.sent)} sent, {human_bytes(entry.received or 0)} received"
    if entry.kind == "name" and entry.addresses:
        text += f"  is {', '.join(entry.addresses[:4])}"
    if entry.process is not None:
        text += one_line(f"  by {entry.process.path or entry.process.name} ({entry.process.pid})", 80)
    return Text.assemble((f"{entry.time.astimezone():%H:%M:%S} ", "dim"), (text, "" if entry.allowed else "red"))
