"""Wakes, inside this process, those who wait for a change in the database. Only ever a hint: everyone who waits looks
at the database again, and also looks now and then without having been woken (another process may have written)."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress


class Notifier:
    """Named bells; one is gone when nobody waits for it."""

    def __init__(self) -> None:
        self._bells: weakref.WeakValueDictionary[str, asyncio.Event] = weakref.WeakValueDictionary()

    def notify(self, *topics: str) -> None:
        """Wake all who wait for these."""
        for topic in topics:
            bell = self._bells.pop(topic, None)
            if bell is not None:
                bell.set()

    def bell(self, topic: str) -> asyncio.Event:
        """Set at the next `notify`. Take it *before* you look at the database, then `wait` for it: a change in between
        is not missed."""
        bell = self._bells.get(topic)
        if bell is None:
            bell = self._bells[topic] = asyncio.Event()
        return bell

    async def wait(self, bell: asyncio.Event, timeout: float) -> None:
        """Until the bell or the end of the time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await bell.wait()


def events_of(task_id: str) -> str:
    """Topic: the task has new events."""
    return f"events:{task_id}"


def stop_of(task_id: str) -> str:
    """Topic: the task's agent has to stop."""
    return f"stop:{task_id}"


def sandbox(sandbox_id: str) -> str:
    """Topic: the sandbox has changed its state."""
    return f"sandbox:{sandbox_id}"
