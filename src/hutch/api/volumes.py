"""`/v1/volumes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.problems import documented
from hutch.errors import AlreadyExists, Conflict, LimitReached, VolumeNotFound
from hutch.model import CreateVolume, Volume, VolumeList

router = APIRouter(prefix="/v1/volumes", tags=["volumes"])

Name = Annotated[str, Path(description="Its name, or `vol_...`.", max_length=128)]


@router.get("", responses=documented())
async def list_volumes(control: ControlDep, org: OrgDep) -> VolumeList:
    """All volumes, oldest first, and what they take together."""
    return VolumeList(volumes=list(await control.volumes.all(org=org)), used_bytes=await control.volumes.used(org=org))


@router.post("", status_code=201, responses=documented(AlreadyExists, LimitReached))
async def create_volume(body: CreateVolume, control: ControlDep, org: OrgDep) -> Volume:
    """Make an empty one. Sandboxes get it with `volumes` when they are made."""
    return await control.volumes.create(body.name, org=org)


@router.get("/{volume}", responses=documented(VolumeNotFound))
async def get_volume(volume: Name, control: ControlDep, org: OrgDep) -> Volume:
    """One of them."""
    return await control.volumes.get(volume, org=org)


@router.delete("/{volume}", status_code=204, responses=documented(VolumeNotFound, Conflict))
async def delete_volume(volume: Name, control: ControlDep, org: OrgDep) -> Response:
    """Delete it with its files. Not while a sandbox has it, though that be paused."""
    await control.volumes.remove(volume, org=org)
    return Response(status_code=204)
