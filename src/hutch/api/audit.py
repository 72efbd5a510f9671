"""`/v1/audit`: the organisation's audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.encoding import NDJSON
from hutch.api.problems import documented
from hutch.control.service import Control
from hutch.model.audit import AuditPage

router = APIRouter(prefix="/v1/audit", tags=["audit"])
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Lines: the key, records in their order, and each signed head after the record that it names.",
        "content": {NDJSON: {"schema": {"type": "string"}}},
    }
}


@router.get("", responses=documented())
async def read_audit(
    control: ControlDep,
    org: OrgDep,
    after: Annotated[int, Query(ge=0, lt=1 << 62, description="`seq` of the last record seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    subject: Annotated[str | None, Query(max_length=64, description="Only what was done to this.")] = None,
    actor: Annotated[str | None, Query(max_length=64, description="Only what this one did.")] = None,
    action: Annotated[str | None, Query(max_length=32, description="Only this kind.")] = None,
) -> AuditPage:
    """Records, oldest first."""
    return await control.audit.page(org, after, limit, subject, actor, action)


@router.get("/export", response_model=None, responses=documented() | _LINES)
async def export_audit(control: ControlDep, org: OrgDep) -> Response:
    """The whole log as newline-delimited JSON, with all that is needed to verify it without this server."""
    return StreamingResponse(_lines(control, org), media_type=NDJSON)


async def _lines(control: Control, org: str) -> AsyncIterator[bytes]:
    async for line in control.audit.export(org):
        yield line.model_dump_json().encode() + b"\n"
