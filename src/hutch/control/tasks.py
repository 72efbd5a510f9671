"""Tasks as callers see them: what one is now, what it says, what it leaves, and its end."""

from __future__ import annotations

from collections.abc import Sequence

from hutch.control.context import Context
from hutch.control.outputs import Outputs
from hutch.control.snapshots import Snapshots
from hutch.control.streams import TaskStreams
from hutch.control.types import MAX_PAGE, Download, Page, Stream
from hutch.control.views import task_view
from hutch.errors import TaskNotFound
from hutch.model import Event, Rollback, Task, TaskState
from hutch.store import DEFAULT_ORG
from hutch.store.pages import make_cursor
from hutch.store.tasks import TaskRow

_CANCELLED = {"state": "cancelled", "error": "cancelled", "detail": "cancelled by the caller"}


class Tasks:
    """Every method that takes an id raises `TaskNotFound` when it is unknown *in that org*."""

    def __init__(self, context: Context, snapshots: Snapshots) -> None:
        self._store = context.store
        self._streams = TaskStreams(context)
        self._outputs = Outputs(context)
        self._snapshots = snapshots

    async def get(self, task_id: str, *, org: str = DEFAULT_ORG) -> Task:
        """The task as it is now."""
        row = await self._row(task_id, org)
        return task_view(row, (await self._store.sandboxes.paused_since([row.sandbox_id])).get(row.sandbox_id))

    async def list(
        self,
        *,
        org: str = DEFAULT_ORG,
        states: Sequence[TaskState] = (),
        sandbox_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Task]:
        """Newest first."""
        limit = max(1, min(limit, MAX_PAGE))
        rows = await self._store.tasks.page(org, [state.value for state in states], sandbox_id, limit + 1, cursor)
        following = make_cursor(rows[limit - 1].created_at, rows[limit - 1].id) if len(rows) > limit else None
        paused = await self._store.sandboxes.paused_since([row.sandbox_id for row in rows])
        return Page([task_view(row, paused.get(row.sandbox_id)) for row in rows[:limit]], following)

    async def cancel(self, task_id: str, *, org: str = DEFAULT_ORG) -> Task:
        """Ask the task to stop (outputs are still collected). No error when it has ended already."""
        row = await self._row(task_id, org)
        await self._streams.ask_to_stop(row.id, _CANCELLED)
        return await self.get(task_id, org=org)

    async def rollback(self, task_id: str, request: Rollback, *, by: str | None = None, org: str = DEFAULT_ORG) -> Task:
        """Its sandbox back to a snapshot or turn, from where the task goes on; see `Control.rollback`."""
        row = await self._row(task_id, org)
        await self._snapshots.rollback(row.sandbox_id, request, org, by)
        return await self.get(task_id, org=org)

    async def events(
        self, task_id: str, *, start: int = 1, limit: int = 1000, org: str = DEFAULT_ORG
    ) -> Sequence[Event]:
        """Stored events from offset `start` (inclusive)."""
        row = await self._row(task_id, org)
        return await self._streams.page(row.id, max(1, start), max(1, min(limit, MAX_PAGE)))

    async def follow(self, task_id: str, *, start: int = 1, org: str = DEFAULT_ORG) -> Stream[Event]:
        """Events from offset `start` as they come; ends after the `result` event."""
        row = await self._row(task_id, org)
        return Stream(self._streams.follow(row.id, max(1, start)))

    async def outputs(self, task_id: str, *, org: str = DEFAULT_ORG) -> Download:
        """The artifact as a tar. `NotFound` while there is none."""
        return await self._outputs.whole(await self._row(task_id, org))

    async def output_file(self, task_id: str, path: str, *, org: str = DEFAULT_ORG) -> Download:
        """One file of the artifact. `FileMissing` when it is not in there."""
        return await self._outputs.file(await self._row(task_id, org), path)

    async def _row(self, task_id: str, org: str) -> TaskRow:
        row = await self._store.tasks.get(task_id)
        if row is None or row.org != org:
            raise TaskNotFound(f"no task {task_id[:64]}")
        return row
