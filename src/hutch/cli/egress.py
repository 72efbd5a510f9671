"""`hutch egress` and `hutch policy`: what a sandbox reaches, and may."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from hutch.cli.common import Connection, Json, SandboxArgument, connection, find_sandbox, leave, run
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.units import human_bytes
from hutch.model.egress import EgressEntry
from hutch.model.learning import learned
from hutch.model.policies import BUILT_IN

policy = typer.Typer(no_args_is_help=True, help="What sandboxes may reach.")


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
    return Text.assemble((f"{entry.time.astimezone():%H:%M:%S} ", "dim"), (text, "" if entry.allowed else "red"))


@policy.command("ls")
def list_policies(json: Json = False) -> None:
    """List the named policies and their rules."""
    if json:
        return print_json({name: list(rules) for name, rules in BUILT_IN.items()})
    for name, rules in BUILT_IN.items():
        out.print(Text.assemble((f"{name:<14}", "bold"), " ".join(rules) or "nothing"))


@policy.command("set")
def set_policy(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help="As for `hutch run --network`.")],
    json: Json = False,
) -> None:
    """Change what a sandbox may reach, at once. What is open and not allowed any more is reset."""
    with connection(ctx).client() as client:
        info = client.sandboxes.get(find_sandbox(client, sandbox)).set_network(rules)
    if json:
        print_json(info.network)
    else:
        note(f"{info.id}: {' '.join(rules)}")


@policy.command("learn")
def learn(ctx: typer.Context, sandbox: SandboxArgument, json: Json = False) -> None:
    """Print the smallest policy that allows what a sandbox has reached, for example one run with `--network public`."""
    with connection(ctx).client() as client:
        made = client.sandboxes.get(find_sandbox(client, sandbox))
        entries: list[EgressEntry] = []
        while page := made.egress(entries[-1].seq if entries else 0, limit=1000):
            entries += page
    found = learned(entries)
    if json:
        return print_json(_short(found.model_dump(mode="json", exclude_defaults=True)))
    for rule in found.allow:
        out.print(Text(f"--network '{rule}'" if "*" in rule else f"--network {rule}"))
    if not found.allow:
        note("it has reached nothing")


def _short(policy: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "rules", "allow": []} | policy
