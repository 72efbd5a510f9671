"""`/v1/sandboxes/{id}/pause`, `/resume`, `/rollback`, `/fork`: the states of a sandbox that can be gone back to."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hutch.api.deps import ControlDep, IdempotencyDep, KeyIdDep, OrgDep, SandboxId
from hutch.api.idempotency import KEY_HEADER
from hutch.api.problems import documented
from hutch.api.schemas import ForkedSandboxes
from hutch.api.urls import sandbox_with_urls
from hutch.api.waking import WAKING
from hutch.errors import (
    Conflict,
    DiskFull,
    FreezeFailed,
    IdempotencyConflict,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotNotFound,
)
from hutch.model import Fork, Pause, Rollback, Sandbox

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}", tags=["states"])

_FREEZE = (SandboxNotFound, SandboxNotRunning, FreezeFailed, DiskFull)


@router.post("/pause", responses=documented(*_FREEZE, Conflict))
async def pause_sandbox(
    request: Request,
    sandbox_id: SandboxId,
    control: ControlDep,
    org: OrgDep,
    key: KeyIdDep,
    body: Pause | None = None,
) -> Sandbox:
    """Save its memory, processes and files, and take it off the host: it costs no CPU and no memory then. Any call
    that needs it wakes it, and its commands go on where they were. With `mode: disk` only its files are saved: it is
    booted anew when it is woken, and its commands are gone. As it is when it is paused or hibernated already."""
    return sandbox_with_urls(request, await control.pause(sandbox_id, body, by=key, org=org))


@router.post("/resume", responses=documented(SandboxNotFound, SandboxNotRunning, *WAKING))
async def resume_sandbox(request: Request, sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> Sandbox:
    """Bring a paused or hibernated sandbox back; `resumed` says whether its memory survived. As it is when it runs."""
    return sandbox_with_urls(request, await control.resume(sandbox_id, org=org))


@router.post("/rollback", responses=documented(*_FREEZE, SnapshotNotFound, Conflict, *WAKING))
async def rollback_sandbox(
    request: Request, sandbox_id: SandboxId, body: Rollback, control: ControlDep, org: OrgDep, key: KeyIdDep
) -> Sandbox:
    """Back to a snapshot of its timeline, or to a turn of its task, under the same id, after a safety snapshot of what
    it is now. Its task goes on from there. A rollback that fails leaves it as it was."""
    return sandbox_with_urls(request, await control.rollback(sandbox_id, body, by=key, org=org))


@router.post(
    "/fork",
    status_code=201,
    responses=documented(*_FREEZE, SnapshotNotFound, Conflict, IdempotencyConflict, *WAKING),
    openapi_extra={"parameters": [KEY_HEADER]},
)
async def fork_sandbox(
    request: Request,
    sandbox_id: SandboxId,
    body: Fork,
    control: ControlDep,
    org: OrgDep,
    key: KeyIdDep,
    idempotency: IdempotencyDep,
) -> ForkedSandboxes:
    """New sandboxes that go on from a snapshot, or from this one as it is now: with its memory, processes and files,
    under ids of their own, and without its task and its credentials. All of them, or none and the error."""
    made = await control.fork(sandbox_id, body, by=key, org=org, idempotency=idempotency)
    return ForkedSandboxes(sandboxes=[sandbox_with_urls(request, each) for each in made])
