"""`/v1/sandboxes/{id}/code`: code, in kernels that keep their state."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from hutch.api.deps import ControlDep, OrgDep, SandboxId
from hutch.api.encoding import NDJSON, code_frames
from hutch.api.problems import documented
from hutch.api.schemas import CodeContextList
from hutch.api.streams import while_connected
from hutch.api.waking import WAKING
from hutch.errors import GuestUnavailable, NotFound, PayloadTooLarge, PortClosed, SandboxNotFound, SandboxNotRunning
from hutch.model import CodeContext, CodeRequest, CodeResult, CreateCodeContext

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/code", tags=["code"])

_ERRORS = documented(
    *(SandboxNotFound, NotFound, SandboxNotRunning, GuestUnavailable, PortClosed, PayloadTooLarge), *WAKING
)
_RUN: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CodeResult,
        "description": "It has ended; with `stream`: frames.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    },
}

ContextId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$", description="Id of a context.")]


@router.post("", response_model=None, responses=_ERRORS | _RUN)
async def run_code(
    request: Request, sandbox_id: SandboxId, body: CodeRequest, control: ControlDep, org: OrgDep
) -> Response:
    """Run code in a kernel that keeps its variables: wait for its end, or have what it gives streamed (`stream`). A
    client that goes away interrupts it. Code of one context runs one after the other."""
    if body.stream:
        return code_frames(await control.code.stream(sandbox_id, body, org=org))
    result = await while_connected(request, control.code.run(sandbox_id, body, org=org))
    return JSONResponse(result.model_dump(mode="json", exclude_none=True, by_alias=True))


@router.get("/contexts", responses=_ERRORS)
async def list_contexts(sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> CodeContextList:
    """The contexts of this sandbox, those that languages have by default among them."""
    return CodeContextList(contexts=list(await control.code.contexts(sandbox_id, org=org)))


@router.post("/contexts", status_code=201, responses=_ERRORS)
async def create_context(
    sandbox_id: SandboxId, body: CreateCodeContext, control: ControlDep, org: OrgDep
) -> CodeContext:
    """A context of its own: another kernel."""
    return await control.code.create_context(sandbox_id, body, org=org)


@router.post("/contexts/{context_id}/restart", status_code=204, responses=_ERRORS)
async def restart_context(sandbox_id: SandboxId, context_id: ContextId, control: ControlDep, org: OrgDep) -> Response:
    """A fresh kernel for it; code that runs in it ends with an error."""
    await control.code.restart_context(sandbox_id, context_id, org=org)
    return Response(status_code=204)


@router.delete("/contexts/{context_id}", status_code=204, responses=_ERRORS)
async def remove_context(sandbox_id: SandboxId, context_id: ContextId, control: ControlDep, org: OrgDep) -> Response:
    """End its kernel; code that runs in it ends with an error."""
    await control.code.remove_context(sandbox_id, context_id, org=org)
    return Response(status_code=204)
