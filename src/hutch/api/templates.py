"""`/v1/templates`."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Path, Response

from hutch.api.deps import ControlDep, OrgDep
from hutch.api.encoding import NDJSON, messages
from hutch.api.problems import documented
from hutch.api.schemas import BuildTemplate, TemplateList
from hutch.errors import Conflict, DiskFull, InvalidTemplate, TemplateBuildFailed, UnknownTemplate

router = APIRouter(prefix="/v1/templates", tags=["templates"])

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NO_BODY = BuildTemplate(force=False)


@router.get("", responses=documented())
async def list_templates(control: ControlDep, org: OrgDep) -> TemplateList:
    """All templates, built or not, and those that the caller's organisation has built through E2B's API."""
    return TemplateList(templates=list(await control.templates(org=org)))


@router.post(
    "/{name}/build",
    response_model=None,
    responses=documented(UnknownTemplate, InvalidTemplate, Conflict, TemplateBuildFailed, DiskFull)
    | {200: {"description": "Messages, one a line.", "content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def build_template(
    name: Annotated[str, Path(max_length=128)],
    control: ControlDep,
    org: OrgDep,
    body: BuildTemplate = _NO_BODY,
) -> Response:
    """Build it, with messages as it goes: `{"type": "log", "line"}`, `{"type": "progress", "step", "of", "text"}`,
    and at the end `{"type": "done", "template"}` or `{"type": "error", "problem"}`."""
    if not _NAME.fullmatch(name):
        raise UnknownTemplate(f"there is no template {name[:64]!r}")
    return messages(await control.build_template(name, force=body.force, org=org))
