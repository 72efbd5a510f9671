"""What the commands share: the connection, the options, ids given by their beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from hutch.errors import InvalidRequest, SandboxNotFound, TaskNotFound
from hutch.model import is_id

if TYPE_CHECKING:
    from hutch.sdk import AsyncHutch, Hutch

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.", rich_help_panel="Output")]
SandboxArgument = Annotated[str, typer.Argument(metavar="SANDBOX", help="Its id, or the beginning of it.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Its id or its sandbox's, or the beginning of one.")]


@dataclass(frozen=True)
class Connection:
    """The global options."""

    url: str | None = None
    api_key: str | None = None

    def client(self) -> Hutch:
        """The blocking client."""
        from hutch.sdk import Hutch

        return Hutch(self.url, self.api_key)

    def async_client(self) -> AsyncHutch:
        """The asynchronous client."""
        from hutch.sdk import AsyncHutch

        return AsyncHutch(self.url, self.api_key)


def connection(ctx: typer.Context) -> Connection:
    """What the global options say."""
    return ctx.obj if isinstance(ctx.obj, Connection) else Connection()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous command."""
    return asyncio.run(work)


def leave(code: int) -> NoReturn:
    """End with this exit code."""
    raise typer.Exit(code)


def short(id: str) -> str:
    """An id as tables show it: enough to be typed, and to be unique among a few thousand."""
    return id[:12]


def find_sandbox(client: Hutch, given: str) -> str:
    """The id that `given` is or begins."""
    if is_id(given, "sbx"):
        return given
    for ended_too in (False, True):
        if found := _match(given, "sbx", (each.id for each in client.sandboxes.list(all=ended_too))):
            return found
    raise SandboxNotFound(f"there is no sandbox {given!r}")


def find_task(client: Hutch, given: str) -> str:
    """The id of the task that `given` is or begins; a sandbox stands for its task."""
    if is_id(given, "tsk"):
        return given
    tasks = client.tasks.list()
    ids = {task.id: task.id for task in tasks} | {task.sandbox_id: task.id for task in reversed(tasks)}
    prefix = "sbx" if given.startswith("sbx") else "tsk"
    candidates = [id for id in ids if id.startswith(prefix)]
    found = _match(given, prefix, candidates)
    if not found and prefix == "tsk":
        found = _match(given, "sbx", [id for id in ids if id.startswith("sbx")])
    if not found:
        raise TaskNotFound(f"there is no task {given!r}", hint="`hutch task ls` lists them.")
    return ids[found]


def _match(given: str, prefix: str, ids: Iterable[str]) -> str | None:
    """The only id that begins so; with or without its prefix."""
    beginning = given if given.startswith(prefix + "_") else f"{prefix}_{given}"
    found = sorted({id for id in ids if id.startswith(beginning)})
    if len(found) > 1:
        shown = ", ".join(found[:4])
        raise InvalidRequest(f"{given!r} is the beginning of {len(found)} ids: {shown}", hint="Give more of it.")
    return found[0] if found else None
