"""`/v1/tasks`: agent runs, their events and their outputs."""

from __future__ import annotations

import asyncio
import posixpath
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from hutch.api.deps import ControlDep, KeyIdDep, OrgDep, TaskId, check_id
from hutch.api.downloads import BINARY, OCTETS, TAR, download
from hutch.api.encoding import SSE, server_sent
from hutch.api.problems import documented
from hutch.api.schemas import EventPage, TaskList
from hutch.api.streams import while_connected
from hutch.api.urls import task_with_urls
from hutch.api.waking import WAKING
from hutch.control.service import Control
from hutch.errors import (
    Conflict,
    DiskFull,
    FileMissing,
    FreezeFailed,
    NotFound,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotNotFound,
    TaskNotFound,
)
from hutch.model import Event, Rollback, Task, TaskState

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

POLL_SECONDS = 25.0
_MOST_OFFSET = 1 << 62
_ERRORS = documented(TaskNotFound)
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page; or a stream, by `Accept`.", "content": {SSE: {"schema": {"type": "string"}}}},
    204: {"description": "(SSE) The task has ended and there is nothing more: do not connect again."},
}


@router.get("", responses=documented(SandboxNotFound))
async def list_tasks(
    request: Request,
    control: ControlDep,
    org: OrgDep,
    state: Annotated[list[TaskState], Query(description="Only these states.")] = [],  # noqa: B006
    sandbox: Annotated[str | None, Query(max_length=64, description="Only of this sandbox.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> TaskList:
    """Tasks, newest first."""
    if sandbox is not None:
        check_id(sandbox, "sbx", SandboxNotFound, "sandbox")
    page = await control.tasks.list(org=org, states=state, sandbox_id=sandbox, limit=limit, cursor=cursor)
    return TaskList(tasks=[task_with_urls(request, task) for task in page.items], next_cursor=page.next_cursor)


@router.get("/{task_id}", responses=_ERRORS)
async def get_task(request: Request, task_id: TaskId, control: ControlDep, org: OrgDep) -> Task:
    """One task: state, usage, result, outputs."""
    return task_with_urls(request, await control.tasks.get(task_id, org=org))


@router.post("/{task_id}/cancel", responses=_ERRORS)
async def cancel_task(request: Request, task_id: TaskId, control: ControlDep, org: OrgDep) -> Task:
    """Ask it to stop; outputs so far are kept. No error when it has ended already."""
    return task_with_urls(request, await control.tasks.cancel(task_id, org=org))


@router.post(
    "/{task_id}/rollback",
    responses=documented(TaskNotFound, SandboxNotRunning, FreezeFailed, DiskFull, SnapshotNotFound, Conflict, *WAKING),
)
async def rollback_task(
    request: Request, task_id: TaskId, body: Rollback, control: ControlDep, org: OrgDep, key: KeyIdDep
) -> Task:
    """Back to one of its turns, or to a snapshot of its sandbox's timeline: its agent's process, its files and its
    events go on from there. Also when it has ended, as long as its sandbox is there. What it has spent stays spent."""
    return task_with_urls(request, await control.tasks.rollback(task_id, body, by=key, org=org))


@router.get("/{task_id}/events", response_model=EventPage, responses=_ERRORS | _EVENTS)
async def read_events(
    request: Request,
    task_id: TaskId,
    control: ControlDep,
    org: OrgDep,
    start: Annotated[int, Query(alias="from", ge=1, le=_MOST_OFFSET, description="First offset wanted.")] = 1,
    follow: Annotated[bool, Query(description="(JSON) Wait for an event when there is none yet.")] = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[int | None, Header(ge=0, le=_MOST_OFFSET, description="(SSE) Go on after it.")] = None,
) -> EventPage | Response:
    """The task's events from any offset: a page, or with `Accept: text/event-stream` a stream that goes on until the
    task's `result`, and that a browser's `EventSource` picks up again by itself."""
    if SSE not in accept.lower():
        events = await control.tasks.events(task_id, start=start, limit=limit, org=org)
        if not events and follow:
            events = await while_connected(request, _next_events(control, task_id, start, org))
        return EventPage(events=list(events), next=events[-1].offset + 1 if events else start)
    if last_event_id is not None:
        start = last_event_id + 1
    task = await control.tasks.get(task_id, org=org)
    if task.state.ended and start > task.last_offset:
        return Response(status_code=204)
    return server_sent(await control.tasks.follow(task_id, start=start, org=org))


async def _next_events(control: Control, task_id: str, start: int, org: str) -> list[Event]:
    """The next event, when one comes within the time of a poll."""
    source = await control.tasks.follow(task_id, start=start, org=org)
    try:
        with suppress(TimeoutError, StopAsyncIteration):
            async with asyncio.timeout(POLL_SECONDS):
                return [await anext(source)]
        return []
    finally:
        await source.aclose()


@router.get(
    "/{task_id}/outputs",
    response_model=None,
    responses=documented(TaskNotFound, NotFound)
    | {200: {"description": "A tar of the files.", "content": {TAR: {"schema": BINARY}}}},
)
async def read_outputs(task_id: TaskId, control: ControlDep, org: OrgDep) -> Response:
    """The files that the task's `outputs` have collected, as a tar."""
    return download(await control.tasks.outputs(task_id, org=org), f"{task_id}.tar", media_type=TAR)


@router.get(
    "/{task_id}/outputs/files",
    response_model=None,
    responses=documented(TaskNotFound, FileMissing)
    | {200: {"description": "The file.", "content": {OCTETS: {"schema": BINARY}}}},
)
async def read_output_file(
    task_id: TaskId,
    control: ControlDep,
    org: OrgDep,
    path: Annotated[str, Query(min_length=1, max_length=4096, description="As in the task's `outputs`.")],
) -> Response:
    """One of them."""
    return download(await control.tasks.output_file(task_id, path, org=org), posixpath.basename(path))
