"""`hutch pause`, `resume`, `rollback` and `fork`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Annotated, Literal

import typer

from hutch.cli.common import Json, SandboxArgument, connection, find_sandbox, find_task, leave, short
from hutch.cli.console import complain, note, out, print_json
from hutch.cli.snapshots import find_snapshot
from hutch.errors import HutchError
from hutch.model import Sandbox
from hutch.sdk import Hutch
from hutch.sdk import Sandbox as SandboxHandle

_AT_ONCE = 4
"""More would only wait for the node's disk."""

Sandboxes = Annotated[list[str], typer.Argument(metavar="SANDBOX...", help="Ids, or their beginnings.")]
Fallback = Annotated[
    bool, typer.Option("--fallback", help="Boot from the files where memory does not fit; processes are gone then.")
]


class Mode(StrEnum):
    """What a pause saves."""

    full = "full"
    disk = "disk"


def pause(
    ctx: typer.Context,
    sandboxes: Sandboxes,
    mode: Annotated[
        Mode, typer.Option("--mode", help="`full`: with memory and processes. `disk`: only the files; booted anew.")
    ] = Mode.full,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="Keep the files apart too, to boot from where memory does not fit.")
    ] = False,
    json: Json = False,
) -> None:
    """Save sandboxes, with memory and processes, and take them off the host. Whatever needs one wakes it."""
    _each(ctx, sandboxes, lambda handle: handle.pause(mode.value, fallback="disk" if fallback else None), json)


def resume(
    ctx: typer.Context,
    sandboxes: Sandboxes,
    fallback: Fallback = False,
    json: Json = False,
) -> None:
    """Bring paused sandboxes back."""
    _each(ctx, sandboxes, lambda handle: handle.resume(fallback="disk" if fallback else None), json)


def rollback(
    ctx: typer.Context,
    sandbox: Annotated[str, typer.Argument(metavar="SANDBOX|TASK", help="Its id, or the beginning of it.")],
    snapshot: Annotated[
        str | None, typer.Argument(metavar="[SNAPSHOT]", help="Its name, its id, or the beginning of it.")
    ] = None,
    turn: Annotated[
        int | None, typer.Option("--turn", min=0, help="Instead of a snapshot: the turn of its task.")
    ] = None,
    fallback: Fallback = False,
    json: Json = False,
) -> None:
    """Take a sandbox back to a snapshot, or to a turn of its task, which goes on from there.

    What it is now is kept as a snapshot first: a rollback to that undoes this one.
    """
    if (snapshot is None) == (turn is None):
        raise typer.BadParameter("give a SNAPSHOT, or a turn with --turn")
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(_sandbox_of(client, sandbox))
        target = find_snapshot(handle.timeline(), snapshot) if snapshot is not None else None
        info = handle.rollback(target, turn=turn, fallback="disk" if fallback else None)
    if json:
        return print_json(info)
    out.print(info.id)
    place = f"turn {turn}" if target is None else target.name or short(target.id)
    note(f"back at {place}; `hutch timeline {short(info.id)}` shows where it was")


def _sandbox_of(client: Hutch, given: str) -> str:
    """The id of the sandbox that is meant, or whose task is."""
    if given.startswith("tsk"):
        return client.tasks.get(find_task(client, given)).sandbox_id
    return find_sandbox(client, given)


def fork(
    ctx: typer.Context,
    sandbox: SandboxArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=64, help="How many.")] = 1,
    source: Annotated[
        str | None, typer.Option("--from", metavar="SNAPSHOT", help="Of its timeline, instead of what it is now.")
    ] = None,
    fallback: Fallback = False,
    secret: Annotated[
        list[str], typer.Option("--secret", metavar="NAME", help="A secret that they may use: they take none over.")
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Make new sandboxes that go on from where one is, with its files, memory and processes."""
    with connection(ctx).client() as client:
        handle = client.sandboxes.get(find_sandbox(client, sandbox))
        target = find_snapshot(handle.timeline(), source) if source is not None else None
        mode: Literal["disk"] | None = "disk" if fallback else None
        made = [each.info for each in handle.fork(count, target, fallback=mode, secrets=secret)]
    if json:
        return print_json(made)
    for each in made:
        out.print(each.id)


def _each(ctx: typer.Context, given: list[str], call: Callable[[SandboxHandle], Sandbox], json: bool) -> None:
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


def _one(client: Hutch, id: str, call: Callable[[SandboxHandle], Sandbox]) -> Sandbox | HutchError:
    try:
        return call(client.sandboxes.get(id))
    except HutchError as error:
        return error
