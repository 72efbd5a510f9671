"""`/v1/uploads`: files sent ahead of a task."""

from __future__ import annotations

from fastapi import APIRouter, Request

from hutch.api.bodies import streamed_body
from hutch.api.deps import ControlDep, OrgDep, SettingsDep
from hutch.api.downloads import BINARY, TAR
from hutch.api.problems import documented
from hutch.api.schemas import UploadInfo
from hutch.errors import DiskFull, PayloadTooLarge

router = APIRouter(prefix="/v1/uploads", tags=["tasks"])


@router.post(
    "",
    status_code=201,
    responses=documented(PayloadTooLarge, DiskFull),
    openapi_extra={"requestBody": {"required": True, "content": {TAR: {"schema": BINARY}}}},
)
async def upload(request: Request, control: ControlDep, org: OrgDep, settings: SettingsDep) -> UploadInfo:
    """Store a tar stream, to be named in `inputs` of a task. It is kept for a day."""
    stored = await control.upload(streamed_body(request, settings.max_upload), org=org)
    return UploadInfo(id=stored.id, size=stored.size, expires_at=stored.expires_at)
