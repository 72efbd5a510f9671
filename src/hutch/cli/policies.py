"""`hutch policy`: what sandboxes may reach, and rules under a name."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.sandboxes import table
from hutch.errors import InvalidRequest
from hutch.model import NamedPolicy, NetworkRules
from hutch.model.egress import EgressEntry
from hutch.model.learning import learned
from hutch.sdk import Hutch

app = typer.Typer(no_args_is_help=True, help="What sandboxes may reach.")

Name = Annotated[str, typer.Argument(help="Such as `our-registry`: small letters, digits, `-`.")]


@app.command("ls")
def list_policies(ctx: typer.Context, json: Json = False) -> None:
    """List the named policies, built-in ones and your own, for `--network NAME`."""
    with connection(ctx).client() as client:
        found = client.policies.list()
    if json:
        return print_json(found)
    rows = table("POLICY", "BUILT IN", "SANDBOXES", "ALLOWS")
    for each in found:
        allows = one_line(" ".join(each.allow), 80) or "nothing"
        rows.add_row(each.name, "yes" if each.built_in else "", str(each.sandboxes), allows)
    out.print(rows)


@app.command("show")
def show(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Show the rules of a named policy, one a line."""
    with connection(ctx).client() as client:
        found = client.policies.get(name)
    if json:
        return print_json(found)
    for rule in found.allow:
        out.print(Text(rule))
    _tell(found)


@app.command("save")
def save(
    ctx: typer.Context,
    name: Name,
    rules: Annotated[list[str], typer.Argument(metavar="[RULE]...", help="Such as `pypi.org`, `*.example.com`.")] = [],  # noqa: B006
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="SANDBOX", help="Besides, what this sandbox has reached: see `policy learn`."),
    ] = None,
    json: Json = False,
) -> None:
    """Keep rules under a name, or give it other ones: they are in force at once for all sandboxes that stand on it."""
    if not rules and source is None:
        hint = f"Say the rules, or --from SANDBOX. `hutch policy rm {name}` forgets it; `air-gapped` allows nothing."
        raise InvalidRequest("a policy needs rules", hint=hint)
    with connection(ctx).client() as client:
        seen = _learned(client, source).allow if source is not None else []
        saved = client.policies.save(name, [*rules, *seen])
    print_json(saved) if json else _tell(saved)


@app.command("rm")
def remove(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Forget a named policy that no sandbox stands on."""
    with connection(ctx).client() as client:
        client.policies.delete(name)
    print_json({"name": name}) if json else out.print(name)


@app.command("set")
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


@app.command("learn")
def learn(ctx: typer.Context, sandbox: SandboxArgument, json: Json = False) -> None:
    """Print the smallest policy that allows what a sandbox has reached, for example one run with `--network public`."""
    with connection(ctx).client() as client:
        found = _learned(client, sandbox)
    if json:
        return print_json(_short(found.model_dump(mode="json", exclude_defaults=True)))
    for rule in found.allow:
        out.print(Text(f"--network '{rule}'" if "*" in rule else f"--network {rule}"))
    if not found.allow:
        note("it has reached nothing")


def _learned(client: Hutch, sandbox: str) -> NetworkRules:
    made = client.sandboxes.get(find_sandbox(client, sandbox))
    entries: list[EgressEntry] = []
    while page := made.egress(entries[-1].seq if entries else 0, limit=1000):
        entries += page
    return learned(entries)


def _tell(policy: NamedPolicy) -> None:
    late = f", {policy.pending} of them when their node answers" if policy.pending else ""
    note(f"{policy.name}: {len(policy.allow)} rules, {policy.sandboxes} sandboxes stand on it{late}")


def _short(policy: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "rules", "allow": []} | policy
