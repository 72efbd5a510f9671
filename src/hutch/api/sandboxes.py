"""`/v1/sandboxes`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from hutch.api.deps import ControlDep, IdempotencyDep, KeyIdDep, OrgDep, SandboxId
from hutch.api.idempotency import KEY_HEADER
from hutch.api.problems import documented
from hutch.api.schemas import EgressPage, SandboxList
from hutch.api.urls import sandbox_with_urls
from hutch.errors import (
    BootFailed,
    DiskFull,
    IdempotencyConflict,
    InvalidPolicy,
    InvalidRequest,
    LimitReached,
    MissingLlmKey,
    PayloadTooLarge,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotCorrupt,
    SnapshotIncompatible,
    SnapshotNotFound,
    TemplateNotBuilt,
    ThawFailed,
    UnknownAgent,
    UnknownTemplate,
    UploadNotFound,
)
from hutch.model import CreateSandbox, NetworkPolicy, Sandbox, SandboxState, UpdateSandbox

router = APIRouter(prefix="/v1/sandboxes", tags=["sandboxes"])

_CREATE_ERRORS = documented(
    UnknownTemplate, UnknownAgent, MissingLlmKey, UploadNotFound, IdempotencyConflict, TemplateNotBuilt,
    InvalidPolicy, PayloadTooLarge, LimitReached, BootFailed, DiskFull, SnapshotNotFound, SnapshotIncompatible,
    SnapshotCorrupt, ThawFailed,
)  # fmt: skip


@router.post("", status_code=201, responses=_CREATE_ERRORS, openapi_extra={"parameters": [KEY_HEADER]})
async def create_sandbox(
    request: Request,
    body: CreateSandbox,
    control: ControlDep,
    org: OrgDep,
    key: KeyIdDep,
    idempotency: IdempotencyDep,
) -> Sandbox:
    """Make a sandbox. With `agent` and `task` the agent is started in it and the answer comes at once, with the URLs
    of the task's streams; without, the answer comes when the sandbox runs."""
    return sandbox_with_urls(request, await control.create(body, by=key, org=org, idempotency=idempotency))


@router.get("", responses=documented())
async def list_sandboxes(
    request: Request,
    control: ControlDep,
    org: OrgDep,
    state: Annotated[list[SandboxState], Query(description="Only these states.")] = [],  # noqa: B006
    label: Annotated[list[str], Query(description="`name=value`; several: all must match.", max_length=16)] = [],  # noqa: B006
    all: Annotated[bool, Query(description="Ended ones too.")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> SandboxList:
    """Sandboxes, newest first."""
    page = await control.list(
        org=org, states=state, labels=_labels(label), include_ended=all, limit=limit, cursor=cursor
    )
    sandboxes = [sandbox_with_urls(request, sandbox) for sandbox in page.items]
    return SandboxList(sandboxes=sandboxes, next_cursor=page.next_cursor)


@router.get("/{sandbox_id}", responses=documented(SandboxNotFound))
async def get_sandbox(request: Request, sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> Sandbox:
    """One sandbox, with fresh figures of what it uses."""
    return sandbox_with_urls(request, await control.get(sandbox_id, org=org))


@router.patch("/{sandbox_id}", responses=documented(SandboxNotFound, SandboxNotRunning))
async def update_sandbox(
    request: Request, sandbox_id: SandboxId, body: UpdateSandbox, control: ControlDep, org: OrgDep
) -> Sandbox:
    """Change what the body names; what it leaves out stays as it is."""
    return sandbox_with_urls(request, await control.update(sandbox_id, body, org=org))


@router.put("/{sandbox_id}/network", responses=documented(SandboxNotFound, SandboxNotRunning, InvalidPolicy))
async def set_network(
    request: Request, sandbox_id: SandboxId, body: NetworkPolicy, control: ControlDep, org: OrgDep
) -> Sandbox:
    """What it may reach from now on, in place of what it might before. Connections that are not allowed any more are
    reset at once; a paused sandbox has it when it wakes."""
    return sandbox_with_urls(request, await control.set_network(sandbox_id, body, org=org))


@router.get("/{sandbox_id}/egress", responses=documented(SandboxNotFound))
async def get_egress(
    sandbox_id: SandboxId,
    control: ControlDep,
    org: OrgDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="`next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for an entry where there is none.")] = 0,
) -> EgressPage:
    """What it has reached and what it was refused, with the rule or the reason: the newest 5000 of a week, also of a
    sandbox that has ended."""
    entries = await control.egress(sandbox_id, after=after, limit=limit, wait=wait, org=org)
    return EgressPage(entries=entries, next=entries[-1].seq if entries else after)


@router.delete("/{sandbox_id}", status_code=204, responses=documented(SandboxNotFound))
async def delete_sandbox(sandbox_id: SandboxId, control: ControlDep, org: OrgDep) -> Response:
    """Destroy it, in any state; again does no harm. A task that runs in it is cancelled."""
    await control.delete(sandbox_id, org=org)
    return Response(status_code=204)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not name or not found:
            raise InvalidRequest("label: write `name=value`", field="label", value=pair[:64])
        labels[name] = value
    return labels
