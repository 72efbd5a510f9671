"""`hutch task`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hutch.cli.common import Json, TaskArgument, connection, find_task, short
from hutch.cli.console import clean, note, one_line, out, print_json
from hutch.cli.progress import transfer
from hutch.cli.render import meter, show_end
from hutch.cli.sandboxes import state_text, table
from hutch.cli.units import age, human_bytes
from hutch.model import Task, TaskState

app = typer.Typer(no_args_is_help=True, help="Agent runs: list, show, cancel, fetch outputs.")


@app.command("ls")
def list_tasks(
    ctx: typer.Context,
    state: Annotated[TaskState | None, typer.Option(help="Only in this state.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole ids.")] = False,
    json: Json = False,
) -> None:
    """List the tasks, newest first."""
    with connection(ctx).client() as client:
        found = client.tasks.list(state=state)
    if json:
        return print_json(found)
    rows = table("TASK", "SANDBOX", "AGENT", "STATE", "AGE", "COST", "PROMPT")
    for task in found:
        ids = (task.id, task.sandbox_id) if full else (short(task.id), short(task.sandbox_id))
        cost = f"${task.usage.llm.usd:.4f}" if task.usage.llm.requests else ""
        rows.add_row(*ids, task.agent, state_text(task.state), age(task.created_at), cost, one_line(task.prompt, 60))
    out.print(rows) if found else note("no tasks; `hutch run` makes one")


@app.command("show")
def show(ctx: typer.Context, task: TaskArgument, json: Json = False) -> None:
    """Show one task: state, result, use, outputs."""
    with connection(ctx).client() as client:
        info = client.tasks.get(find_task(client, task)).info
    print_json(info) if json else _show(info)


@app.command("cancel")
def cancel(
    ctx: typer.Context,
    task: TaskArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Until it has ended.")] = False,
    json: Json = False,
) -> None:
    """Stop a task. Outputs so far are kept."""
    with connection(ctx).client() as client:
        handle = client.tasks.get(find_task(client, task))
        handle.cancel()
        if wait:
            handle.wait()
        info = handle.refresh()
    if json:
        print_json(info)
    elif info.state.ended:
        show_end(info)
    else:
        out.print(info.id)


@app.command("outputs")
def outputs(
    ctx: typer.Context,
    task: TaskArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Write them below this directory.")] = None,
    json: Json = False,
) -> None:
    """List the files a task has made, or fetch them with --to."""
    with connection(ctx).client() as client:
        handle = client.tasks.get(find_task(client, task))
        files = handle.info.outputs
        if to is not None and files:
            with transfer("fetching outputs", sum(file.size for file in files)) as advance:
                handle.outputs.extract(to, lambda _, size: advance(size))
    if json:
        return print_json(files)
    for file in files:
        out.print(f"{human_bytes(file.size):>9}  {clean(file.path if to is None else to / file.path)}")
    if not files:
        note("no outputs")


def _show(info: Task) -> None:
    rows = {
        "task": info.id,
        "sandbox": info.sandbox_id,
        "agent": info.agent,
        "state": info.state,
        "created": f"{age(info.created_at)} ago",
        "used": meter(info.usage),
        "error": " ".join(filter(None, [info.result.error, info.result.detail])) if info.result else "",
        "prompt": one_line(info.prompt, 300),
        "answer": info.result.text if info.result else "",
    }
    for name, value in rows.items():
        if value:
            out.print(Text.assemble((f"{name:<9}", "dim"), clean(value).replace("\n", "\n         ")))
    for file in info.outputs:
        out.print(Text.assemble((f"{'output':<9}", "dim"), f"{clean(file.path)}  {human_bytes(file.size)}"))
