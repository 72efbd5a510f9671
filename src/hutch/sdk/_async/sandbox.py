"""One sandbox."""

from __future__ import annotations

import builtins
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from hutch.errors import NotFound, TaskNotFound
from hutch.model import (
    Budget,
    Checkpoints,
    CodeContext,
    CodeResult,
    Diff,
    ExecRequest,
    ExecResult,
    ExecState,
    Identity,
    NetworkPolicy,
    ResourcesOverride,
    SandboxState,
    Snapshot,
    TimelineEntry,
)
from hutch.model import Sandbox as SandboxInfo
from hutch.model.egress import EgressEntry
from hutch.model.policies import said
from hutch.sdk._async.code import AsyncContexts, OnValue
from hutch.sdk._async.files import AsyncFiles
from hutch.sdk._async.ports import AsyncPorts
from hutch.sdk._async.process import AsyncProcess
from hutch.sdk._async.pty import AsyncPty
from hutch.sdk._async.task import AsyncTask
from hutch.sdk._async.transport import STATE_TIMEOUT, AsyncTransport, at
from hutch.sdk._shim import aio
from hutch.sdk.frames import Collector, OnText
from hutch.sdk.inputs import AnyInput
from hutch.sdk.requests import exec_request, rollback_body
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
        self.contexts = AsyncContexts(self._transport, info.id)
        self.ports = AsyncPorts(self._transport, info.id)

    @classmethod
    async def create(
        cls,
        template: str | None = None,
        *,
        agent: str | None = None,
        task: str | None = None,
        llm_key: str | None = None,
        llm_provider: str | None = None,
        provider_tools: Literal["allow", "deny"] | None = None,
        model: str | None = None,
        inputs: Sequence[AnyInput] = (),
        outputs: Sequence[str] = (),
        budget: Budget | None = None,
        checkpoints: Checkpoints | None = None,
        keep: bool = False,
        network: NetworkPolicy | str | Sequence[str] | None = None,
        resources: ResourcesOverride | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        identity: Identity | None = None,
        volumes: Mapping[str, str] | None = None,
        public_ports: Sequence[int] = (),
        lifetime: float | None = None,
        idle_timeout: float | None = None,
        from_snapshot: str | None = None,
        fallback: Literal["disk"] | None = None,
        request_timeout: float | None = None,
        client: AsyncHutch | None = None,
    ) -> AsyncSandbox:
        """Make a sandbox; with `agent` and `task`, start the agent in it (see `task.events`, `task.wait`).

        `template`: by default the agent's own, or `standard`. `inputs`: local paths, URLs, `git+https://...@COMMIT`,
        or input models; local ones are uploaded first. `outputs`: globs of the files to keep. `checkpoints`: `turns`
        (see `task.rollback`), or every so many seconds; without, none are taken. `idle_timeout`: seconds without use
        after which it is paused, to be woken by the next call. `from_snapshot`: a snapshot that it goes on from, in
        place of a template; `fallback` as for `pause`: booted from its disk where memory does not fit the node.
        `network`: `deny_all`, `allow_all`, rules and names of policies (`["packages", "*.example.com"]`), or a policy;
        without, the template's, which is `deny_all` unless it says so. `secrets`: names of those that it may use
        without seeing them; the network has to allow their hosts. `identity`: what its identity token
        says beside what Hutch knows of it. `volumes`: names by the paths at which they are mounted; a fork has
        those of its snapshot's sandbox unless some are given. `public_ports`: as by `ports.publish`; a fork has none
        unless they are given. Without `client`, one is made from the environment or the credentials file, and closed
        with the sandbox.
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
                llm_provider=llm_provider,
                provider_tools=provider_tools,
                model=model,
                inputs=inputs,
                outputs=outputs,
                budget=budget,
                checkpoints=checkpoints,
                keep=keep,
                network=network,
                resources=resources,
                env=env,
                secrets=secrets,
                labels=labels,
                identity=identity,
                volumes=volumes,
                public_ports=public_ports,
                lifetime=lifetime,
                idle_timeout=idle_timeout,
                from_snapshot=from_snapshot,
                fallback=fallback,
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
        """A sandbox that exists; a paused or hibernated one is woken. `SandboxNotFound` when there is none."""
        from hutch.sdk._async.client import AsyncHutch

        owned = client is None
        client = client or AsyncHutch()
        try:
            sandbox = await client.sandboxes.get(id)
            if sandbox.state in (SandboxState.PAUSED, SandboxState.HIBERNATED):
                await sandbox.resume()
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

    async def update(self, *, idle_timeout: float | None) -> SandboxInfo:
        """Change after how many seconds without use it is paused; None: never."""
        body = {"idle_timeout": idle_timeout}
        self.info = parse(SandboxInfo, await self._transport.json("PATCH", self._base, body=body, repeat=True))
        return self.info

    async def set_network(self, network: NetworkPolicy | str | Sequence[str]) -> SandboxInfo:
        """What it may reach from now on: as at `create`. What is open and not allowed any more is reset at once."""
        body = said(network).model_dump(mode="json")
        path = f"{self._base}/network"
        self.info = parse(SandboxInfo, await self._transport.json("PUT", path, body=body, repeat=True))
        return self.info

    async def egress(self, after: int = 0, *, limit: int = 100, wait: float = 0) -> builtins.list[EgressEntry]:
        """What it has reached and what it was refused, and why; the oldest first. Give the `seq` of the last as `after`
        for the next; `wait`: seconds (at most 30) to wait for one where there is none."""
        params = {"after": after, "limit": limit, "wait": wait}
        answer = await self._transport.json("GET", f"{self._base}/egress", params=params)
        return [parse(EgressEntry, each) for each in answer["entries"]]

    async def pause(
        self, mode: Literal["full", "disk"] = "full", *, fallback: Literal["disk"] | None = None
    ) -> SandboxInfo:
        """Save its memory, processes and files, and take it off the host: it costs no CPU and no memory then. The next
        call that needs it wakes it. With `mode="disk"` only its files are saved: it is booted anew when it is woken,
        and its commands are gone. With `fallback="disk"`, now and at later pauses, the files are kept apart too:
        where memory does not fit the node any more, it is booted from them. Nothing happens when it is paused already;
        only with `mode="disk"` it is woken, to be hibernated."""
        body = {name: value for name, value in (("mode", mode), ("fallback", fallback)) if value not in ("full", None)}
        return await self._change("pause", body=body or None, repeat=True)

    async def resume(self, *, fallback: Literal["disk"] | None = None) -> SandboxInfo:
        """Bring it back, if it is paused; `resumed.memory` of the answer says whether its memory survived. `fallback`
        as for `pause`."""
        return await self._change("resume", body={"fallback": fallback} if fallback else None, repeat=True)

    async def snapshot(
        self,
        name: str | None = None,
        *,
        mode: Literal["full", "disk"] = "full",
        fallback: Literal["disk"] | None = None,
        idempotency_key: str | None = None,
    ) -> Snapshot:
        """A point to come back to, of memory, processes and files. It goes on; its connections to the outside are cut.
        A snapshot with a name is kept until it is deleted. With `mode="disk"` it is of the files alone: what is made
        of it is booted. `fallback="disk"` keeps its files apart too, for where
        memory does not fit. However often the call is repeated, there is one of it."""
        given = {"name": name, "fallback": fallback, "mode": None if mode == "full" else mode}
        body = {key: value for key, value in given.items() if value is not None}
        answer = await self._transport.json(
            "POST",
            f"{self._base}/snapshots",
            body=body,
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeat=True,
            timeout=self._patience,
        )
        return parse(Snapshot, answer)

    async def snapshots(self) -> builtins.list[Snapshot]:
        """Those that were taken of it, oldest first."""
        answer = await self._transport.json("GET", f"{self._base}/snapshots")
        return [parse(Snapshot, each) for each in answer["snapshots"]]

    async def timeline(self) -> builtins.list[TimelineEntry]:
        """The tree of snapshots that it is in, those that it was forked from too: each after its parent."""
        answer = await self._transport.json("GET", f"{self._base}/timeline")
        return [parse(TimelineEntry, each) for each in answer["snapshots"]]

    async def diff(
        self,
        from_snapshot: str | Snapshot | None = None,
        to_snapshot: str | Snapshot | None = None,
        *,
        path: str = "",
        text: bool = False,
        limit: int = 1000,
    ) -> Diff:
        """Files added, changed and removed between two snapshots of its timeline; from the template's image, and up to
        now, where one is left out. `path`: only that, and what is below it; `text`: unified diffs of text files too."""
        params: dict[str, Any] = {"path": path, "text": str(text).lower(), "limit": limit}
        for name, point in (("from", from_snapshot), ("to", to_snapshot)):
            if point is not None:
                params[name] = point if isinstance(point, str) else point.id
        answer = await self._transport.json("GET", f"{self._base}/diff", params=params, timeout=self._patience)
        return parse(Diff, answer)

    async def rollback(
        self,
        snapshot: str | Snapshot | None = None,
        *,
        turn: int | None = None,
        fallback: Literal["disk"] | None = None,
    ) -> SandboxInfo:
        """Back to a snapshot of its timeline, or to a turn of its task, under the same id, after a safety snapshot of
        what it is now. Its task goes on from there. When that fails it is as it was. `fallback` as for `pause`."""
        return await self._change("rollback", body=rollback_body(snapshot, turn, fallback))

    async def fork(
        self,
        count: int = 1,
        from_snapshot: str | Snapshot | None = None,
        *,
        fallback: Literal["disk"] | None = None,
        identity: Identity | None = None,
        secrets: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> builtins.list[AsyncSandbox]:
        """New sandboxes (1 to 64) that go on from a snapshot of its timeline, or from what it is now; all, or none and
        the error. They are without its task and its credentials. `fallback` as for `pause`, `identity` and
        `secrets` as for `create`: they take nothing of them over."""
        body: dict[str, Any] = {"count": count}
        if fallback is not None:
            body["fallback"] = fallback
        if identity is not None:
            body["identity"] = identity.model_dump(exclude_defaults=True)
        if secrets:
            body["secrets"] = list(secrets)
        if from_snapshot is not None:
            body["from"] = from_snapshot if isinstance(from_snapshot, str) else from_snapshot.id
        answer = await self._transport.json(
            "POST",
            f"{self._base}/fork",
            body=body,
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
            repeat=True,
            timeout=self._patience,
        )
        return [AsyncSandbox(self._client, parse(SandboxInfo, each)) for each in answer["sandboxes"]]

    async def _change(self, call: str, **options: Any) -> SandboxInfo:
        answer = await self._transport.json("POST", f"{self._base}/{call}", timeout=self._patience, **options)
        self.info = parse(SandboxInfo, answer)
        return self.info

    @property
    def _patience(self) -> float:
        """Seconds: memory is saved and loaded as fast as the disk is."""
        return max(STATE_TIMEOUT, self._transport.request_timeout)

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

    async def run_code(
        self,
        code: str,
        *,
        language: str | None = None,
        context: str | CodeContext | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
        on_result: OnValue | None = None,
    ) -> CodeResult:
        """Run code in a kernel that keeps its variables, and wait for its end: the value of the last line and what was
        shown, output, the error if there was one. The template must have a code interpreter (`code-interpreter`).

        `language`: Python, or what else the template has; `context`: one of `contexts`, in place of the language's own.
        Code of one context runs one after the other. `env`: for this code alone. `timeout` (seconds) interrupts it,
        and so does a caller who goes away. The callbacks are told as it comes.
        """
        return await self.contexts.run(
            code,
            language=language,
            context=context,
            env=env,
            timeout=timeout,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            on_result=on_result,
        )

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
