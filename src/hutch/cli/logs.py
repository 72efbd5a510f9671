"""`hutch logs`: what a task did, or a command printed, again and as it goes on."""

from __future__ import annotations

from typing import Annotated

import typer

from hutch.cli import session
from hutch.cli.common import Connection, Json, connection, find_sandbox, find_task, leave, run
from hutch.cli.console import print_json
from hutch.cli.executing import show_output
from hutch.cli.render import Renderer, show_end
from hutch.model import Event
from hutch.sdk import Process
from hutch.sdk.wire import parse


def logs(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK|SANDBOX", help="A task, or a sandbox with one.")],
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until it ends; its exit code is this one's."),
    ] = False,
    from_: Annotated[int, typer.Option("--from", min=1, metavar="OFFSET", help="Begin at this event.")] = 1,
    exec_id: Annotated[
        str | None,
        typer.Option("--exec", metavar="EXEC", help="The output of this command of the sandbox instead."),
    ] = None,
    json: Json = False,
) -> None:
    """Print the events of a task, or with --exec the output of a command."""
    link = connection(ctx)
    if exec_id:
        with link.client() as client:
            sandbox = client.sandboxes.get(find_sandbox(client, task))
            leave(_exec_output(sandbox.process(exec_id), follow, json))
    with link.client() as client:
        id = find_task(client, task)
    if follow:
        leave(run(_follow(link, id, from_, json)))
    _print(link, id, from_, json)


def _print(link: Connection, id: str, from_: int, json: bool) -> None:
    """What there is, page by page."""
    with link.client() as client:
        info = client.tasks.get(id).info
        renderer = Renderer(bare=info.agent == "command")
        while True:
            page = client.transport.json("GET", f"/v1/tasks/{id}/events", params={"from": from_, "limit": 1000})
            for each in page["events"]:
                event = parse(Event, each)
                print_json(event) if json else renderer.show(event)
            if not page["events"]:
                break
            from_ = page["next"]
        renderer.end()
        if info.state.ended and not json:
            show_end(info)


async def _follow(link: Connection, id: str, from_: int, json: bool) -> int:
    async with link.async_client() as client:
        task = await client.tasks.get(id)
        await session.follow(task, task.info.agent == "command", json, from_)
        info = await task.refresh()
    if not json:
        show_end(info)
    return session.exit_code(info)


def _exec_output(process: Process, following: bool, json: bool) -> int:
    """All of it from the beginning; the exit code is the command's, if it has one."""
    for output in process.output(0, follow=following or not process.state.running):
        show_output(output, json)
    return process.exit_code or 0
