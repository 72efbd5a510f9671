"""One sandbox."""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from hutch.errors import NotFound, TaskNotFound
from hutch.model import Budget, ExecRequest, ExecResult, ExecState, NetworkPolicy, ResourcesOverride, SandboxState
from hutch.model import Sandbox as SandboxInfo
from hutch.sdk._async.files import AsyncFiles
from hutch.sdk._async.process import AsyncProcess
from hutch.sdk._async.pty import AsyncPty
from hutch.sdk._async.task import AsyncTask
from hutch.sdk._async.transport import AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.frames import Collector, OnText
from hutch.sdk.inputs import AnyInput
from hutch.sdk.requests import exec_request
from hutch.sdk.sources import whole
from hutch.sdk.wire import parse

if TYPE_CHECKING:
    from hutch.sdk._async.client import AsyncHutch

MAX_INLINE_STDIN = 1 << 19


class AsyncSandbox:
    """One disposable computer. `info` is what was last heard of it.

    As a context manager it destroys the sandbox when the block is left.
    """

    def __init__(self, client: AsyncHutch, info: SandboxInfo, *, owns_client: bool = False) -> None:
        self._client = client
        self._owns_client = owns_client
        self._transport: AsyncTransport = client.transport
        self._base = at("sandboxes", info.id)
        self._task = AsyncTask(self._transport, info.task) if info.task else None
        self.info = info
        self.files = AsyncFiles(self._transport, info.id)

    @classmethod
    async def create(
        cls,
        template: str | None = None,
        *,
        agent: str | None = None,
        task: str | None = None,
        llm_key: str | None = None,
        model: str | None = None,
        inputs: Sequence[AnyInput] = (),
        outputs: Sequence[str] = (),
        budget: Budget | None = None,
        keep: bool = False,
        network: NetworkPolicy | Literal["deny_all", "allow_all"] | None = None,
        resources: ResourcesOverride | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        lifetime: float | None = None,
        request_timeout: float | None = None,
        client: AsyncHutch | None = None,
    ) -> AsyncSandbox:
        """Make a sandbox; with `agent` and `task`, start the agent in it (see `task.events`, `task.wait`).

        `template`: by default the agent's own, or `standard`. `inputs`: local paths, URLs, `git+https://...@COMMIT`,
        or input models; local ones are uploaded first. `outputs`: globs of the files to keep. Without `client`, one
        is made from the environment or the credentials file, and closed with the sandbox.
        """
        from hutch.sdk._async.client import AsyncHutch

        owned = client is None
        client = client or AsyncHutch()
        try:
            sandbox = await client.sandboxes.create(
                template,
                agent=agent,
                task=task,
                llm_key=llm_key,
                model=model,
                inputs=inputs,
                outputs=outputs,
                budget=budget,
                keep=keep,
                network=network,
                resources=resources,
                env=env,
                labels=labels,
                lifetime=lifetime,
                request_timeout=request_timeout,
            )
        except BaseException:
            if owned:
                await client.aclose()
            raise
        sandbox._owns_client = owned
        return sandbox

    @classmethod
    async def connect(cls, id: str, *, client: AsyncHutch | None = None) -> AsyncSandbox:
        """A sandbox that exists. `SandboxNotFound` when it does not."""
        from hutch.sdk._async.client import AsyncHutch

        owned = client is None
        client = client or AsyncHutch()
        try:
            sandbox = await client.sandboxes.get(id)
        except BaseException:
            if owned:
                await client.aclose()
            raise
        sandbox._owns_client = owned
        return sandbox

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        try:
            await self.kill()
        finally:
            await self.aclose()

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def state(self) -> SandboxState:
        return self.info.state

    @property
    def task(self) -> AsyncTask:
        """The task it was made for."""
        if self._task is None:
            raise TaskNotFound(f"sandbox {self.id} was made without a task", hint="Create it with `agent` and `task`.")
        return self._task

    async def refresh(self) -> SandboxInfo:
        """Ask for the present state and use."""
        self.info = parse(SandboxInfo, await self._transport.json("GET", self._base))
        return self.info

    async def kill(self) -> None:
        """Destroy it, whatever it does. No error when it has ended already."""
        with suppress(NotFound):
            await self._transport.request("DELETE", self._base)

    async def aclose(self) -> None:
        """Close the connections, if they are this sandbox's own; it lives on."""
        if self._owns_client:
            await self._client.aclose()

    async def run(
        self,
        command: str | builtins.list[str],
        *,
        stdin: aio.AnySource | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> ExecResult:
        """Run a command and wait for its end. Text is run by `bash -l`, a list as it is.

        `timeout` (seconds) kills its whole process tree. `stdin`: bytes, text, a local `Path`, an open file, or what
        gives bytes. A lost connection is made again; the command does not notice.
        """
        collector = Collector(on_stdout, on_stderr)
        data = whole(stdin)
        text = _as_text(data)
        if stdin is None or text is not None:
            request = exec_request(command, env, cwd, user, timeout, stdin=text)
            return await AsyncProcess(self._transport, self.id, ExecState(id="", running=True)).run(request, collector)
        process = await self.start(command, env=env, cwd=cwd, user=user, timeout=timeout, open_stdin=True)
        return await process.collect(on_stdout, on_stderr, stdin=stdin)

    async def exec(self, command: str | builtins.list[str], **options: Any) -> ExecResult:
        """The same as `run`."""
        return await self.run(command, **options)

    async def start(
        self,
        command: str | builtins.list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        open_stdin: bool = False,
    ) -> AsyncProcess:
        """Start a command and return at once."""
        request = exec_request(command, env, cwd, user, timeout, open_stdin=open_stdin, background=True)
        return AsyncProcess(self._transport, self.id, await self._start(request))

    async def process(self, id: str) -> AsyncProcess:
        """A command that was started before, to read its output again or go on with it."""
        answer = await self._transport.json("GET", f"{self._base}/exec/{id}")
        return AsyncProcess(self._transport, self.id, parse(ExecState, answer))

    async def processes(self) -> builtins.list[ExecState]:
        """The commands that run, and the newest that have ended."""
        answer = await self._transport.json("GET", f"{self._base}/exec")
        return [parse(ExecState, state) for state in answer["execs"]]

    def pty(
        self,
        command: str | None = None,
        *,
        cols: int = 80,
        rows: int = 24,
        cwd: str | None = None,
        user: str | None = None,
        attach: str | None = None,
    ) -> AsyncPty:
        """A terminal: a login shell, or `command`; `attach` takes up an earlier one by its id. Use as a context
        manager, or call `open` and `aclose`."""
        query = {"cols": cols, "rows": rows, "command": command, "cwd": cwd, "user": user, "exec": attach}
        return AsyncPty(self._transport, self.id, {key: value for key, value in query.items() if value is not None})

    async def _start(self, request: ExecRequest) -> ExecState:
        body = request.model_dump(mode="json", exclude_defaults=True)
        return parse(ExecState, await self._transport.json("POST", f"{self._base}/exec", body=body))


def _as_text(data: bytes | None) -> str | None:
    """Input that fits into the request itself."""
    if data is None or len(data) > MAX_INLINE_STDIN:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
