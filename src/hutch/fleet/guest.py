"""The guest, as the server talks to it: typed calls to one sandbox's PID 1. What it answers is never trusted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from hutch.errors import GuestUnavailable
from hutch.fleet.frames import Frame, FrameKind, FrameParser
from hutch.fleet.guest_code import GuestCode
from hutch.fleet.guest_files import GuestFiles
from hutch.fleet.transport import Answer, Body, GuestTransport
from hutch.model import ExecState, GuestFigures, LimitBreach, PtySize

__all__ = ["Frame", "FrameKind", "GuestClient", "Output", "ProcessSpec", "exec_state", "exit_state", "limit_breach"]

_MAX_JSON = 4 << 20
_END = 0.5
_SILENCE = 60.0
"""The guest sends a keepalive every 15 seconds."""


@dataclass(frozen=True)
class ProcessSpec:
    """A process to start. Starting the same id twice starts it once."""

    id: str
    argv: list[str] | None = None
    shell: str | None = None
    """Instead of `argv`: a command for the login shell."""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    timeout: float | None = None
    stdin: bytes | None = None
    """Given and closed. None: /dev/null, unless `open_stdin`."""
    open_stdin: bool = False
    pty: PtySize | None = None
    keep_all: bool = False
    """Drop no output, ever: the process waits until what was read is acknowledged. Else the newest is kept."""

    def to_json(self) -> dict[str, Any]:
        stdin: Any = "pipe" if self.open_stdin else "none"
        if self.stdin is not None:
            stdin = {"data": base64.b64encode(self.stdin).decode()}
        return {
            "id": self.id,
            "argv": self.argv,
            "shell": self.shell,
            "env": dict(self.env),
            "cwd": self.cwd,
            "user": self.user,
            "timeout": self.timeout,
            "stdin": stdin,
            "pty": self.pty.model_dump() if self.pty else None,
            "retain": "all" if self.keep_all else "tail",
        }


class Output(AsyncIterator[Frame]):
    """A process's output as frames. Read it to the end or close it."""

    def __init__(self, answer: Answer, start: int) -> None:
        self._answer = answer
        self._chunks = answer.chunks()
        self._parser = FrameParser(start)
        self._ready: list[Frame] = []

    async def batch(self) -> list[Frame]:
        """The frames that have come, at least one; empty at the end of the stream."""
        while not self._ready:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                return []
            self._ready = self._parser.feed(chunk)
        frames, self._ready = self._ready, []
        return frames

    async def __anext__(self) -> Frame:
        if not self._ready:
            self._ready = await self.batch()
            if not self._ready:
                raise StopAsyncIteration
        return self._ready.pop(0)

    async def finish(self) -> None:
        """After the last frame: take the end of the answer too, so that its connection serves the next one."""
        with suppress(TimeoutError, GuestUnavailable):
            async with asyncio.timeout(_END):
                await anext(self._chunks, None)

    async def aclose(self) -> None:
        await self._answer.aclose()


class GuestClient:
    """Calls to the guest of one sandbox."""

    def __init__(self, transport: GuestTransport, sandbox_id: str, token: str) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id
        self._token = token
        self.files = GuestFiles(self._open, self._json)
        self.code = GuestCode(transport, sandbox_id)

    @property
    def token(self) -> str:
        """What the guest asks for; nobody else may see it."""
        return self._token

    async def reach(self) -> None:
        """Connect ahead of the next call, so that it does not have to. Raises `SandboxNotRunning`, `GuestUnavailable`,
        `NodeUnavailable`."""
        await self._transport.reach(self._sandbox_id)

    async def connect(self, port: int, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """A connection of its own to a port of the sandbox. Raises `PortClosed`, `SandboxNotRunning`,
        `GuestUnavailable`, `NodeUnavailable`."""
        return await self._transport.connect(self._sandbox_id, self._token, port, protocol)

    async def attach(self, volume: str, path: str, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """A connection on which it asks for the files of the volume that is mounted at a path: mounts it. Raises
        `Conflict`, `SandboxNotRunning`, `GuestUnavailable`, `NodeUnavailable`."""
        return await self._transport.attach(self._sandbox_id, self._token, volume, path, protocol)

    async def figures(self) -> GuestFigures:
        """What the sandbox uses, as its guest says: for a person's eyes, not for limits or bills."""
        try:
            return GuestFigures.model_validate(await self._json("GET", "/metrics"))
        except ValidationError as error:
            raise GuestUnavailable("the sandbox's guest answered nonsense") from error

    async def environment(self) -> dict[str, str]:
        """What all its commands get, as the guest says."""
        found = await self._json("GET", "/envs")
        if not all(isinstance(value, str) for value in found.values()):
            raise GuestUnavailable("the sandbox's guest answered nonsense")
        return found

    async def set_environment(self, env: Mapping[str, str]) -> None:
        """What all its commands get from now on, beside what the template says."""
        await self._json("POST", "/init", body=_dump({"envVars": dict(env)}))

    async def start(self, spec: ProcessSpec) -> ExecState:
        """Start the process, or find the one that was started with this id."""
        return exec_state(await self._json("POST", "/hutch/processes", body=_dump(spec.to_json())))

    async def start_and_follow(self, spec: ProcessSpec) -> tuple[ExecState, Output]:
        """`start` and `output` from its beginning, in one call."""
        answer = await self._open(
            "POST",
            "/hutch/processes",
            query={"follow": 1},
            headers={"Content-Type": "application/json"},
            body=_dump(spec.to_json()),
            read_timeout=_SILENCE,
        )
        output = Output(answer, 0)
        try:
            first = await anext(output, None)
            state = exec_state(_load(first.payload)) if first and first.kind is FrameKind.STARTED else None
            if state is None or state.id != spec.id:
                raise GuestUnavailable("the sandbox's guest answered nonsense")
            return state, output
        except BaseException:
            await output.aclose()
            raise

    async def process(self, exec_id: str) -> ExecState:
        return exec_state(await self._json("GET", f"/hutch/processes/{exec_id}"))

    async def processes(self) -> list[ExecState]:
        """All that run, and those that ended of late."""
        found = (await self._json("GET", "/hutch/processes")).get("processes")
        if not isinstance(found, list):
            raise GuestUnavailable("the sandbox's guest answered nonsense")
        return [exec_state(state) for state in found]

    async def output(self, exec_id: str, start: int = 0, follow: bool = True) -> Output:
        """Output from `start`; with `follow` until the process ends, else what there is."""
        query = {"from": start, "follow": int(follow)}
        answer = await self._open("GET", f"/hutch/processes/{exec_id}/output", query=query, read_timeout=_SILENCE)
        return Output(answer, start)

    async def ack(self, exec_id: str, offset: int) -> None:
        """The output before `offset` is safe with us: the guest may forget it."""
        await self._json("POST", f"/hutch/processes/{exec_id}/ack", body=_dump({"offset": offset}))

    async def stdin(self, exec_id: str, body: Body, close: bool = False) -> None:
        query = {"close": 1 if close else None}
        await self._json("POST", f"/hutch/processes/{exec_id}/stdin", query=query, body=body, read_timeout=3600.0)

    async def signal(self, exec_id: str, signal: str | int, tree: bool = True) -> None:
        await self._json("POST", f"/hutch/processes/{exec_id}/signal", body=_dump({"signal": signal, "tree": tree}))

    async def resize(self, exec_id: str, size: PtySize) -> None:
        await self._json("POST", f"/hutch/processes/{exec_id}/resize", body=_dump(size.model_dump()))

    async def forget(self, exec_id: str) -> None:
        """Kill the process with all its descendants, and forget its output."""
        await self._json("DELETE", f"/hutch/processes/{exec_id}")

    async def _open(self, method: str, path: str, **options: Any) -> Answer:
        return await self._transport.open(self._sandbox_id, self._token, method, path, **options)

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        options.setdefault("headers", {"Content-Type": "application/json"})
        answer = await self._open(method, path, **options)
        body = await answer.body(_MAX_JSON)
        found = _load(body) if body else {}
        if not isinstance(found, dict):
            raise GuestUnavailable("the sandbox's guest answered nonsense")
        return found


def exec_state(found: Any) -> ExecState:
    """The guest's state of a process, checked."""
    try:
        known = {name: found[name] for name in ExecState.model_fields if name in found}
        return ExecState.model_validate(known)
    except (ValidationError, TypeError, ValueError) as error:
        raise GuestUnavailable("the sandbox's guest answered nonsense") from error


def exit_state(payload: bytes) -> ExecState:
    """The final state in an `EXIT` frame, checked."""
    return exec_state(_load(payload))


def limit_breach(payload: bytes) -> LimitBreach:
    """The breach of a `LIMIT` frame, checked."""
    try:
        return LimitBreach.model_validate_json(payload)
    except ValidationError as error:
        raise GuestUnavailable("the sandbox's guest sent a broken limit report") from error


def _load(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GuestUnavailable("the sandbox's guest answered nonsense") from error


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
