"""`/v1/sandboxes/{id}/snapshots`, `/v1/sandboxes/{id}/timeline`, `/v1/snapshots`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from hutch.api.deps import ControlDep, IdempotencyDep, KeyIdDep, OrgDep, SandboxId, SnapshotId
from hutch.api.idempotency import KEY_HEADER
from hutch.api.problems import documented
from hutch.api.schemas import SnapshotList, Timeline
from hutch.errors import (
    Conflict,
    DiskFull,
    FreezeFailed,
    IdempotencyConflict,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotNotFound,
)
from hutch.model import CreateSnapshot, Snapshot, TimelineEntry

router = APIRouter(prefix="/v1", tags=["snapshots"])


@router.post(
    "/sandboxes/{sandbox_id}/snapshots",
    status_code=201,
    responses=documented(SandboxNotFound, SandboxNotRunning, FreezeFailed, DiskFull, IdempotencyConflict),
    openapi_extra={"parameters": [KEY_HEADER]},
)
async def take_snapshot(
    sandbox_id: SandboxId,
    body: CreateSnapshot,
    control: ControlDep,
    org: OrgDep,
    key: KeyIdDep,
    idempotency: IdempotencyDep,
) -> Snapshot:
    """A snapshot of memory, processes and files. A sandbox that runs goes on after `stopped_ms`; its connections to
    the outside are cut."""
    return await control.take_snapshot(sandbox_id, body, by=key, org=org, idempotency=idempotency)


@router.get("/sandboxes/{sandbox_id}/snapshots", responses=documented(SandboxNotFound))
async def list_snapshots(sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> SnapshotList:
    """The snapshots that were taken of this sandbox, oldest first."""
    return SnapshotList(snapshots=list(await control.snapshots(sandbox_id, org=org)))


@router.get("/sandboxes/{sandbox_id}/timeline", responses=documented(SandboxNotFound))
async def get_timeline(sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> Timeline:
    """The tree of snapshots that the sandbox is in, those that it was forked from too; each after its parent."""
    found = await control.timeline(sandbox_id, org=org)
    return Timeline(snapshots=[TimelineEntry(depth=depth, **snapshot.model_dump()) for depth, snapshot in found])


@router.get("/snapshots/{snapshot_id}", responses=documented(SnapshotNotFound))
async def get_snapshot(snapshot_id: SnapshotId, control: ControlDep, org: OrgDep) -> Snapshot:
    """One snapshot."""
    return await control.snapshot(snapshot_id, org=org)


@router.delete("/snapshots/{snapshot_id}", status_code=204, responses=documented(SnapshotNotFound, Conflict))
async def delete_snapshot(snapshot_id: SnapshotId, control: ControlDep, org: OrgDep) -> Response:
    """Take a snapshot away; its children become its parent's. Not while a paused sandbox stands on it."""
    await control.delete_snapshot(snapshot_id, org=org)
    return Response(status_code=204)
