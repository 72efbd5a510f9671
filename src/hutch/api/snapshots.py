"""`/v1/sandboxes/{id}/snapshots`, `/v1/sandboxes/{id}/timeline`, `/v1/snapshots`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hutch.api.bodies import streamed_body
from hutch.api.deps import ControlDep, IdempotencyDep, KeyIdDep, OrgDep, SandboxId, SnapshotId
from hutch.api.downloads import BINARY, TAR, download
from hutch.api.idempotency import KEY_HEADER
from hutch.api.problems import documented
from hutch.api.schemas import SnapshotList, Timeline
from hutch.errors import (
    Conflict,
    DiskFull,
    FreezeFailed,
    IdempotencyConflict,
    InvalidArchive,
    PayloadTooLarge,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotCorrupt,
    SnapshotIncompatible,
    SnapshotNotFound,
)
from hutch.model import CreateSnapshot, Snapshot, SnapshotUsage, TimelineEntry

router = APIRouter(prefix="/v1", tags=["snapshots"])

_ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"description": "The archive.", "content": {TAR: {"schema": BINARY}}}}


@router.post(
    "/sandboxes/{sandbox_id}/snapshots",
    status_code=201,
    responses=documented(SandboxNotFound, SandboxNotRunning, FreezeFailed, DiskFull, Conflict, IdempotencyConflict),
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


@router.get("/snapshots", responses=documented())
async def list_all_snapshots(control: ControlDep, org: OrgDep) -> SnapshotList:
    """All snapshots, also of sandboxes that are gone, oldest first."""
    return SnapshotList(snapshots=list(await control.all_snapshots(org=org)))


@router.get("/snapshots/usage", responses=documented())
async def get_snapshot_usage(control: ControlDep, org: OrgDep) -> SnapshotUsage:
    """What all your snapshots take: what several have in common is counted once."""
    return await control.snapshot_usage(org=org)


@router.post(
    "/snapshots/import",
    status_code=201,
    responses=documented(InvalidArchive, PayloadTooLarge, SnapshotIncompatible, DiskFull),
    openapi_extra={"requestBody": {"required": True, "content": {TAR: {"schema": BINARY}}}},
)
async def import_snapshot(request: Request, control: ControlDep, org: OrgDep, key: KeyIdDep) -> Snapshot:
    """Take in what `GET .../archive` gave, here or where the same key seals: a new snapshot, of no sandbox, to create
    sandboxes `from`."""
    return await control.import_snapshot(streamed_body(request), by=key, org=org)


@router.get(
    "/snapshots/{snapshot_id}/archive",
    response_class=Response,
    responses=_ARCHIVE | documented(SnapshotNotFound, SnapshotCorrupt, DiskFull),
)
async def export_snapshot(snapshot_id: SnapshotId, control: ControlDep, org: OrgDep) -> Response:
    """The snapshot as one file, with the seal of this installation behind it. It holds all that was in the sandbox's
    memory: keep it as you would keep that."""
    found = await control.export_snapshot(snapshot_id, org=org)
    return download(found, f"{snapshot_id}.tar", media_type=TAR)


@router.get("/snapshots/{snapshot_id}", responses=documented(SnapshotNotFound))
async def get_snapshot(snapshot_id: SnapshotId, control: ControlDep, org: OrgDep) -> Snapshot:
    """One snapshot."""
    return await control.snapshot(snapshot_id, org=org)


@router.delete("/snapshots/{snapshot_id}", status_code=204, responses=documented(SnapshotNotFound, Conflict))
async def delete_snapshot(snapshot_id: SnapshotId, control: ControlDep, org: OrgDep) -> Response:
    """Take a snapshot away; its children become its parent's. Not while a paused sandbox stands on it."""
    await control.delete_snapshot(snapshot_id, org=org)
    return Response(status_code=204)
