"""`/v1/sandboxes/{id}/exec`: commands."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from hutch.api.bodies import streamed_body
from hutch.api.deps import ControlDep, ExecId, OrgDep, SandboxId
from hutch.api.encoding import NDJSON, exec_frames
from hutch.api.problems import documented
from hutch.api.schemas import ExecList, SendSignal
from hutch.api.streams import while_connected
from hutch.api.waking import WAKING
from hutch.errors import (
    ExecNotFound,
    GuestUnavailable,
    InvalidRequest,
    PayloadTooLarge,
    SandboxNotFound,
    SandboxNotRunning,
)
from hutch.model import ExecRequest, ExecResult, ExecState, Model, PtySize

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/exec", tags=["exec"])

_START_ERRORS = documented(SandboxNotFound, SandboxNotRunning, GuestUnavailable, PayloadTooLarge, *WAKING)
_ERRORS = documented(SandboxNotFound, ExecNotFound, SandboxNotRunning, GuestUnavailable, *WAKING)
_FRAMES = {"description": "Frames, one a line.", "content": {NDJSON: {"schema": {"type": "string"}}}}
_RAW_BODY = {
    "requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
_STARTED: dict[int | str, dict[str, Any]] = {
    202: {"model": ExecState, "description": "With `background`: it runs."},
    200: {"model": ExecResult, "description": "It has ended; with `stream`: frames.", "content": _FRAMES["content"]},
}


@router.post("", response_model=None, responses=_START_ERRORS | _STARTED)
async def start_exec(
    request: Request, sandbox_id: SandboxId, body: ExecRequest, control: ControlDep, org: OrgDep
) -> Response:
    """Run a command: wait for its end, or have its output streamed (`stream`), or leave it running (`background`).

    A client that goes away ends nothing: the command runs on, and `GET .../exec` finds it again."""
    if body.stream and body.background:
        raise InvalidRequest("background: not together with `stream`", field="background", value=True)
    if body.stream:
        return exec_frames(await control.execs.stream(sandbox_id, body, org=org))
    if body.background:
        return _json(await control.execs.start(sandbox_id, body, org=org), 202)
    return _json(await while_connected(request, control.execs.run(sandbox_id, body, org=org)), 200)


@router.get("", responses=_START_ERRORS)
async def list_execs(sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> ExecList:
    """The commands of this sandbox: all that run, and the newest of those that have ended."""
    return ExecList(execs=await control.execs.list(sandbox_id, org=org))


@router.get("/{exec_id}", responses=_ERRORS)
async def get_exec(sandbox_id: SandboxId, exec_id: ExecId, control: ControlDep, org: OrgDep) -> ExecState:
    """One command."""
    return await control.execs.get(sandbox_id, exec_id, org=org)


@router.get("/{exec_id}/output", response_model=None, responses=_ERRORS | {200: _FRAMES})
async def read_output(
    sandbox_id: SandboxId,
    exec_id: ExecId,
    control: ControlDep,
    org: OrgDep,
    start: Annotated[int, Query(alias="from", ge=0, lt=1 << 63, description="`offset` of the last frame seen.")] = 0,
    follow: Annotated[bool, Query(description="Go on until it ends.")] = True,
) -> Response:
    """Its output, again from any offset, as newline-delimited JSON frames."""
    return exec_frames(await control.execs.output(sandbox_id, exec_id, start=start, follow=follow, org=org))


@router.post("/{exec_id}/stdin", status_code=204, responses=_ERRORS, openapi_extra=_RAW_BODY)
async def write_stdin(
    request: Request, sandbox_id: SandboxId, exec_id: ExecId, control: ControlDep, org: OrgDep, close: bool = False
) -> Response:
    """Write the body to its standard input; `close` ends it."""
    await control.execs.stdin(sandbox_id, exec_id, streamed_body(request), close=close, org=org)
    return Response(status_code=204)


@router.post("/{exec_id}/signal", status_code=204, responses=_ERRORS)
async def send_signal(
    sandbox_id: SandboxId, exec_id: ExecId, body: SendSignal, control: ControlDep, org: OrgDep
) -> Response:
    """Send a signal to its whole process tree."""
    await control.execs.signal(sandbox_id, exec_id, body.signal, org=org)
    return Response(status_code=204)


@router.post("/{exec_id}/resize", status_code=204, responses=_ERRORS)
async def resize(sandbox_id: SandboxId, exec_id: ExecId, body: PtySize, control: ControlDep, org: OrgDep) -> Response:
    """Change the size of its terminal."""
    await control.execs.resize(sandbox_id, exec_id, body, org=org)
    return Response(status_code=204)


@router.delete("/{exec_id}", status_code=204, responses=_ERRORS)
async def delete_exec(sandbox_id: SandboxId, exec_id: ExecId, control: ControlDep, org: OrgDep) -> Response:
    """Kill its process tree and forget it."""
    await control.execs.delete(sandbox_id, exec_id, org=org)
    return Response(status_code=204)


def _json(model: Model, status: int) -> JSONResponse:
    return JSONResponse(model.model_dump(mode="json"), status)
