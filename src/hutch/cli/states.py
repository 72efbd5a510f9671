"""`hutch pause`, `resume`, `rollback` and `fork`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

import typer

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox, leave, short
from hutch.cli.console import complain, note, out, print_json
from hutch.cli.timeline import SnapshotArgument, find_snapshot
from hutch.errors import HutchError
from hutch.model import Sandbox
from hutch.sdk import Hutch

_AT_ONCE = 4
"""More would only wait for the node's disk."""

Sandboxes = Annotated[list[str], typer.Argument(metavar="SANDBOX...", help="Ids, or their beginnings.")]


def pause(ctx: typer.Context, sandboxes: Sandboxes, json: Json = False) -> None:
    """Save sandboxes, with memory and processes, and take them off the host. Whatever needs one wakes it."""
    _each(ctx, sandboxes, "pause", json)


def resume(ctx: typer.Context, sandboxes: Sandboxes, json: Json = False) -> None:
    """Bring paused sandboxes back."""
    _each(ctx, sandboxes, "resume", json)


def rollback(ctx: typer.Context, sandbox: SandboxArgument, snapshot: SnapshotArgument, json: Json = False) -> None:
    """Take a sandbox back to a snapshot. What it is now is kept as a snapshot first."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        target = find_snapshot(handle.timeline(), snapshot)
        info = handle.rollback(target)
    if json:
        return print_json(info)
    out.print(info.id)
    note(f"back at {target.name or short(target.id)}; `hutch timeline {short(info.id)}` shows where it was")


def fork(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=64, help="How many.")] = 1,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SNAPSHOT", help="Of its timeline, instead of what it is now.")
    ] = None,
    json: Json = False,
) -> None:
    """Make new sandboxes that go on from where one is, with its files, memory and processes."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        target = find_snapshot(handle.timeline(), source) if source is not None else None
        made = [each.info for each in handle.fork(count, target)]
    if json:
        return print_json(made)
    for each in made:
        out.print(each.id)


def _each(ctx: typer.Context, given: list[str], call: Literal["pause", "resume"], json: bool) -> None:
    """The same for each; what goes wrong with one does not keep it from the others."""
    with connection(ctx).client() as client:
        ids = list(dict.fromkeys(find_sandbox(client, each) for each in given))
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            answers = list(pool.map(lambda id: _one(client, id, call), ids))
    for id, answer in zip(ids, answers, strict=True):
        if isinstance(answer, HutchError):
            complain(f"{id}: {answer.detail}", answer.hint)
        elif not json:
            out.print(id)
    if json:
        print_json([each.to_problem() if isinstance(each, HutchError) else each for each in answers])
    if any(isinstance(each, HutchError) for each in answers):
        leave(1)


def _one(client: Hutch, id: str, call: Literal["pause", "resume"]) -> Sandbox | HutchError:
    try:
        handle = client.sandboxes.get(id)
        return handle.pause() if call == "pause" else handle.resume()
    except HutchError as error:
        return error
