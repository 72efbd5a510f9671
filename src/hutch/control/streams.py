"""A task's events for its readers, always from the database: a reader who is slow holds up nobody, and one who comes
late misses nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from hutch.control.context import Context
from hutch.control.notifier import events_of, stop_of
from hutch.control.views import event_view
from hutch.model import Event, EventType

_PAGE = 500
_LOOK = 2.0
"""Seconds after which the database is looked at without having been woken."""


class TaskStreams:
    """Reading, and the one thing that a reader may say: stop."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def page(self, task_id: str, start: int, limit: int) -> list[Event]:
        """Stored events from offset `start`."""
        return [event_view(row) for row in await self._context.store.events.read(task_id, start, limit)]

    async def follow(self, task_id: str, start: int) -> AsyncGenerator[Event, None]:
        """Events from offset `start` as they come, until the task has ended: a `result` may have been taken back. A
        `start` beyond the end of a stream that has ended gives nothing."""
        place = start
        while True:
            bell = self._context.notifier.bell(events_of(task_id))
            found = await self.page(task_id, place, _PAGE)
            for event in found:
                yield event
                place = event.offset + 1
            if found and found[-1].type is not EventType.RESULT:
                continue
            task = await self._context.store.tasks.get(task_id)
            if task is None or (task.ended_at is not None and place > task.last_offset):
                return
            await self._context.notifier.wait(bell, _LOOK)

    async def ask_to_stop(self, task_id: str, stop: dict[str, Any]) -> None:
        """Have the agent stopped, unless it has ended or is being stopped already."""
        async with self._context.store.database.write() as connection:
            await self._context.store.tasks.ask_to_stop(connection, task_id, stop)
        self._context.notifier.notify(stop_of(task_id))
