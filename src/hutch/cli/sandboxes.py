"""`hutch ps` and `hutch kill`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from hutch.cli.common import Json, connection, find_sandbox, leave, short
from hutch.cli.console import complain, note, one_line, out, print_json
from hutch.cli.units import age, human_bytes
from hutch.errors import HutchError, InvalidRequest
from hutch.model import Sandbox

STATE_STYLES = {
    "running": "green",
    "starting": "yellow",
    "paused": "blue",
    "hibernated": "blue",
    "queued": "yellow",
    "stopping": "yellow",
    "succeeded": "green",
    "failed": "red",
    "budget_exceeded": "red",
    "timed_out": "red",
    "cancelled": "yellow",
}


def table(*columns: str) -> Table:
    """A table without lines, whose rows can be cut by other programs."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns[:-1]:
        result.add_column(column, no_wrap=True)
    result.add_column(columns[-1])  # what gives way in a narrow terminal
    return result


def state_text(state: str) -> Text:
    """A state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def labels_of(pairs: list[str]) -> dict[str, str]:
    """`name=value`, several times."""
    labels = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise typer.BadParameter(f"{pair!r} is no label; write name=value")
        labels[name] = value
    return labels


def ps(
    ctx: typer.Context,
    all: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    label: Annotated[list[str], typer.Option("--label", "-l", help="Only with this label (name=value).")] = [],  # noqa: B006
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only ids.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Whole ids.")] = False,
    json: Json = False,
) -> None:
    """List the sandboxes."""
    with connection(ctx).client() as client:
        found = client.sandboxes.list(all=all, labels=labels_of(label))
    if json:
        print_json(found)
    elif quiet:
        for each in found:
            out.print(each.id)
    else:
        _show(found, full)


def _show(found: list[Sandbox], full: bool) -> None:
    rows = table("SANDBOX", "STATE", "TEMPLATE", "TASK", "AGE", "CPU", "MEMORY", "NOTE")
    for each in found:
        task = f"{each.task.agent}: {each.task.state}" if each.task else ""
        rows.add_row(
            each.id if full else short(each.id),
            state_text(each.state),
            one_line(each.template, 24),
            one_line(task, 32),
            age(each.created_at),
            f"{each.usage.cpu_seconds:.1f} s",
            human_bytes(each.usage.memory_peak_bytes),
            one_line(each.reason or " ".join(f"{k}={v}" for k, v in each.labels.items()), 60),
        )
    if found:
        out.print(rows)
    else:
        note("no sandboxes; `hutch run` makes one")


def kill(
    ctx: typer.Context,
    sandboxes: Annotated[
        list[str] | None, typer.Argument(metavar="SANDBOX...", help="Ids, or their beginnings.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every sandbox.")] = False,
    label: Annotated[list[str], typer.Option("--label", "-l", help="All with this label.")] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Destroy sandboxes. Tasks in them are cancelled."""
    if not (sandboxes or all or label):
        raise InvalidRequest("nothing to kill", hint="Name sandboxes, or give --all or --label name=value.")
    with connection(ctx).client() as client:
        ids = [find_sandbox(client, each) for each in sandboxes or []]
        if all or label:
            ids += [each.id for each in client.sandboxes.list(labels=labels_of(label))]

        def end(id: str) -> HutchError | None:
            try:
                client.transport.request("DELETE", f"/v1/sandboxes/{id}")
            except HutchError as error:
                return error
            return None

        ids = list(dict.fromkeys(ids))
        with ThreadPoolExecutor(max_workers=16) as pool:
            errors = list(pool.map(end, ids))
    for id, error in zip(ids, errors, strict=True):
        if error:
            complain(f"{id}: {error.detail}", error.hint)
        elif not json:
            out.print(id)
    if json:
        print_json([{"id": id, "error": e.to_problem() if e else None} for id, e in zip(ids, errors, strict=True)])
    if any(errors):
        leave(1)
