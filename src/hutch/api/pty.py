"""`WS /v1/sandboxes/{id}/pty`: a terminal.

Binary messages are the terminal's bytes, both ways. Text messages are JSON: from the client `{"type": "resize",
"cols", "rows"}` and `{"type": "close"}` (end the process); to the client `start {exec}`, `offset {offset}` (after a
pause in the output: where to read on after a reconnect with `?exec=&from=`), `gap`, `limit`, `exit {exec}`, `error`.
A client that goes away leaves the process running.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from hutch.api.deps import ControlDep, OrgDep, check_id
from hutch.api.sockets import first_of, query_int, refuse
from hutch.api.streams import with_keepalive
from hutch.api.validation import explain
from hutch.control.service import Control
from hutch.errors import Conflict, ExecNotFound, HutchError, InvalidRequest, SandboxNotFound
from hutch.fleet.guest import Frame, FrameKind
from hutch.model import ExecRequest, ExecState, LimitBreach, PtySize

router = APIRouter(prefix="/v1/sandboxes")

SHELL = "if command -v bash >/dev/null; then exec bash -i; else exec sh -i; fi"
_OFFSET_PAUSE = 0.2


@router.websocket("/{sandbox_id}/pty")
async def terminal(socket: WebSocket, sandbox_id: str, control: ControlDep, org: OrgDep) -> None:
    """A new terminal (`cols`, `rows`, `command`, `user`, `cwd`), or an old one again (`exec`, `from`)."""
    try:
        check_id(sandbox_id, "sbx", SandboxNotFound, "sandbox")
        state = await _open(socket, sandbox_id, control, org)
        start = query_int(socket, "from", 0, 0, 1 << 62)
        async with aclosing(await control.execs.raw(sandbox_id, state.id, start=start, org=org)) as frames:
            await socket.accept()
            await _say(socket, "start", exec=state.model_dump(mode="json"))
            session = Terminal(socket, control, sandbox_id, state.id, org)
            await first_of(socket, lambda: session.show(frames), session.listen)
    except HutchError as error:
        await _fail(socket, error)
    except ValidationError as error:
        await _fail(socket, explain(error.errors(), "application/json"))
    except WebSocketDisconnect:
        pass


async def _open(socket: WebSocket, sandbox_id: str, control: Control, org: str) -> ExecState:
    """The exec that the terminal belongs to."""
    query = socket.query_params
    if exec_id := query.get("exec"):
        check_id(exec_id, "exe", ExecNotFound, "exec")
        return await control.execs.get(sandbox_id, exec_id, org=org)
    size = {name: query[name] for name in ("cols", "rows") if name in query}
    request = ExecRequest(
        command=query.get("command") or SHELL,
        env={"TERM": "xterm-256color"},
        user=query.get("user"),
        cwd=query.get("cwd"),
        pty=PtySize.model_validate(size),
    )
    return await control.execs.start(sandbox_id, request, org=org)


class Terminal:
    """One client at one terminal."""

    def __init__(self, socket: WebSocket, control: Control, sandbox_id: str, exec_id: str, org: str) -> None:
        self._socket = socket
        self._execs = control.execs
        self._ids = (sandbox_id, exec_id)
        self._org = org

    async def show(self, frames: Any) -> None:
        """The output, until the process ends."""
        told, offset = 0, 0
        async with aclosing(with_keepalive(frames, _OFFSET_PAUSE)) as source:
            async for frame in source:
                if frame is not None:
                    offset = frame.offset
                    await self._show(frame)
                elif offset != told:
                    told = offset
                    await _say(self._socket, "offset", offset=offset)
        await self._socket.close(1000)

    async def _show(self, frame: Frame) -> None:
        match frame.kind:
            case FrameKind.STDOUT | FrameKind.STDERR | FrameKind.PTY:
                await self._socket.send_bytes(frame.payload)
            case FrameKind.GAP:
                await _say(self._socket, "gap", dropped_bytes=_parse(frame.payload).get("dropped_bytes"))
            case FrameKind.LIMIT:
                with suppress(ValidationError):  # it comes from the guest
                    breach = LimitBreach.model_validate_json(frame.payload)
                    await _say(self._socket, "limit", breach=breach.model_dump(mode="json"))
            case FrameKind.EXIT:
                state = await self._execs.get(*self._ids, org=self._org)
                await _say(self._socket, "exit", offset=frame.offset, exec=state.model_dump(mode="json"))

    async def listen(self) -> None:
        """The client's keys and wishes, until it goes."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            with suppress(Conflict, ExecNotFound):  # it has ended; `show` is about to say so
                if (data := message.get("bytes")) is not None:
                    await self._execs.stdin(*self._ids, data, org=self._org)
                elif (text := message.get("text")) is not None:
                    await self._obey(text)

    async def _obey(self, text: str) -> None:
        match wish := _parse(text):
            case {"type": "resize"}:
                size = PtySize.model_validate({name: wish.get(name) for name in ("cols", "rows")})
                await self._execs.resize(*self._ids, size, org=self._org)
            case {"type": "close"}:
                await self._execs.signal(*self._ids, "SIGKILL", org=self._org)
            case _:
                raise InvalidRequest('a text message is {"type": "resize", "cols", "rows"} or {"type": "close"}')


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}


async def _say(socket: WebSocket, kind: str, **members: Any) -> None:
    await socket.send_text(json.dumps({"type": kind} | members))


async def _fail(socket: WebSocket, error: HutchError) -> None:
    """Say in full what went wrong, then close with the short form of it."""
    try:
        if socket.client_state.name == "CONNECTING":
            await socket.accept()
        await _say(socket, "error", error=error.to_problem())
    except (WebSocketDisconnect, RuntimeError, asyncio.CancelledError):
        return
    await refuse(socket, error)
