"""One `hutch run`: send the inputs, create, follow, collect; and what Ctrl-C means at each point."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hutch.cli.common import Connection
from hutch.cli.console import note, one_line, out, print_json
from hutch.cli.progress import transfer, warn_if_large, watched
from hutch.cli.render import Renderer, show_end
from hutch.errors import HutchError, NotFound
from hutch.model import Input, Task, TaskState
from hutch.sdk import AsyncHutch, AsyncSandbox, AsyncTask, LocalInput

DETACHED = 130
_CODES = {
    TaskState.SUCCEEDED: 0,
    TaskState.BUDGET_EXCEEDED: 3,
    TaskState.TIMED_OUT: 4,
    TaskState.CANCELLED: 5,
}


def exit_code(task: Task) -> int:
    """The exit code that stands for a task's end."""
    if task.state in _CODES:
        return _CODES[task.state]
    return (task.result.exit_code if task.result else None) or 1


@dataclass(frozen=True)
class Job:
    """What `hutch run` was asked for."""

    fields: dict[str, Any]
    """Arguments of `sandboxes.create`, but the inputs."""
    inputs: Sequence[LocalInput | Input]
    output_dir: Path
    detach: bool
    json: bool


class Session:
    """Runs one job."""

    def __init__(self, link: Connection, job: Job) -> None:
        self._link = link
        self._job = job
        self._task: AsyncTask | None = None
        self._creating = False
        self._interrupts = 0
        self._main: asyncio.Task[Any] | None = None
        self._cancelling: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """From the call to the end; the exit code."""
        self._main = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt)
        try:
            async with self._link.async_client() as client:
                return await self._run(client)
        except asyncio.CancelledError:
            if self._task is not None and not self._job.json:
                note(f"detached; it runs on: `hutch logs -f {self._task.id}`, `hutch task cancel {self._task.id}`")
            return DETACHED

    async def _run(self, client: AsyncHutch) -> int:
        sandbox = await self._create(client)
        self._task = task = sandbox.task
        if self._interrupts:
            self._cancel()
        if self._job.detach:
            print_json(sandbox.info) if self._job.json else out.print(task.id)
            return 0
        if self._job.json:
            print_json({"type": "sandbox", "sandbox": sandbox.info})
        else:
            note(f"task {task.id} in sandbox {sandbox.id}")
        await follow(task, self._job.fields["agent"] == "command", self._job.json)
        return await self._finish(sandbox, task)

    async def _create(self, client: AsyncHutch) -> AsyncSandbox:
        """Until this has returned, Ctrl-C leaves nothing behind: an interrupted upload makes no sandbox, and a create
        that is under way is waited for."""
        sent = [await self._send(client, each) if isinstance(each, LocalInput) else each for each in self._job.inputs]
        self._creating = True
        return await client.sandboxes.create(inputs=sent, **self._job.fields)

    async def _send(self, client: AsyncHutch, local: LocalInput) -> Input:
        await asyncio.to_thread(local.check)
        size = await asyncio.to_thread(warn_if_large, local)
        with transfer(f"sending {local.path}", size) as advance:
            return await client.upload(local, lambda _, chunks: watched(chunks, advance))

    async def _finish(self, sandbox: AsyncSandbox, task: AsyncTask) -> int:
        info = await task.refresh()
        written = await self._collect(task) if info.outputs else []
        if self._job.json:
            print_json({"type": "end", "task": info, "outputs_dir": str(self._job.output_dir), "written": written})
        else:
            show_end(info)
            for path in written:
                note(f"  {self._job.output_dir / path}", "green")
            if self._job.fields["outputs"] and not written:
                note(f"  nothing matches {' '.join(self._job.fields['outputs'])}", "yellow")
            if info.outputs_truncated:
                note("  some outputs were left out: they are too large", "yellow")
            if self._job.fields["keep"]:
                note(f"  the sandbox is kept: `hutch shell {sandbox.id}`, `hutch kill {sandbox.id}`")
        return exit_code(info)

    async def _collect(self, task: AsyncTask) -> list[str]:
        with transfer("fetching outputs", sum(file.size for file in task.info.outputs)) as advance:
            try:
                return await task.outputs.extract(self._job.output_dir, lambda _, size: advance(size))
            except NotFound as error:
                note(f"the outputs are gone: {error.detail}", "yellow")
                return []

    def _interrupt(self) -> None:
        self._interrupts += 1
        if self._task is None and self._creating and self._interrupts == 1:
            return  # a moment: the task is cancelled as soon as it has an id
        if self._task is not None and self._interrupts == 1:
            self._cancel()
        elif self._main is not None:
            self._main.cancel()

    def _cancel(self) -> None:
        if not self._job.json:
            note("\nstopping the task; Ctrl-C again leaves it running", "yellow")
        self._cancelling = asyncio.get_running_loop().create_task(self._send_cancel())

    async def _send_cancel(self) -> None:
        assert self._task is not None
        try:
            await self._task.cancel()
        except HutchError as error:
            note(f"it could not be stopped: {one_line(error.detail)}", "red")


async def follow(task: AsyncTask, bare: bool, json: bool, from_: int = 1) -> None:
    """Print a task's events until it ends."""
    renderer = Renderer(bare=bare)
    async for event in task.events(from_):
        if json:
            print_json(event)
        else:
            renderer.show(event)
    renderer.end()
