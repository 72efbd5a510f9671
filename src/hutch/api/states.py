"""`/v1/sandboxes/{id}/pause`, `/resume`, `/rollback`, `/fork`: the states of a sandbox that can be gone back to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

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
    GuestUnavailable,
    IdempotencyConflict,
    LimitReached,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotNotFound,
)
from hutch.model import Diff, DiffRequest, Fork, Pause, Resume, Rollback, Sandbox
from hutch.model.diff import MOST_CHANGES
from hutch.model.node import SNAPSHOT_ID

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
    booted anew when it is woken, and its commands are gone. As it is when it is paused or hibernated already; only a
    paused one that is to be hibernated is woken for it."""
    return sandbox_with_urls(request, await control.pause(sandbox_id, body, by=key, org=org))


@router.post("/resume", responses=documented(SandboxNotFound, SandboxNotRunning, Conflict, *WAKING))
async def resume_sandbox(
    request: Request, sandbox_id: SandboxId, control: ControlDep, org: OrgDep, body: Resume | None = None
) -> Sandbox:
    """Bring a paused or hibernated sandbox back; `resumed` says whether its memory survived. As it is when it runs."""
    return sandbox_with_urls(request, await control.resume(sandbox_id, body, org=org))


@router.get(
    "/diff",
    responses=documented(
        SandboxNotFound, SandboxNotRunning, SnapshotNotFound, Conflict, LimitReached, GuestUnavailable, DiskFull
    ),
)
async def diff_sandbox(
    sandbox_id: SandboxId,
    control: ControlDep,
    org: OrgDep,
    from_snapshot: Annotated[
        str | None,
        Query(alias="from", pattern=SNAPSHOT_ID, description="Of its timeline; unset: the template's image."),
    ] = None,
    to_snapshot: Annotated[
        str | None,
        Query(alias="to", pattern=SNAPSHOT_ID, description="Of its timeline; unset: as it is now."),
    ] = None,
    path: Annotated[str, Query(max_length=4096, description="Only this path, and what is below it.")] = "",
    text: Annotated[bool, Query(description="Unified diffs of text files too.")] = False,
    limit: Annotated[int, Query(ge=1, le=MOST_CHANGES, description="How many changes are listed at most.")] = 1000,
) -> Diff:
    """Files added, changed and removed between two points of a sandbox. It goes on, or sleeps on, meanwhile; a snapshot
    with memory is looked into in a hidden copy of it, which takes a second, once."""
    wanted = DiffRequest(from_snapshot=from_snapshot, to_snapshot=to_snapshot, path=path, text=text, limit=limit)
    return await control.diff(sandbox_id, wanted, org=org)


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
