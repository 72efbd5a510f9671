"""A `Control` in the test's own process, on a real node; and ways to kill it in the middle."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.node_host import NodeHost

from hutch.control.service import Control
from hutch.model import CreateSandbox, Event, Task
from hutch.settings import Settings
from hutch.store.engine import Database, Transaction

T = TypeVar("T")


class Crash(BaseException):
    """The process is dead: nothing in it may go on, and no handler of errors may see this."""


def settings_of(node: NodeHost, **values: Any) -> Settings:
    return Settings(data_dir=node.root / "d", run_dir=node.root / "r", allow_private_inputs=True, **values)


@asynccontextmanager
async def controlled(node: NodeHost, **values: Any) -> AsyncIterator[Control]:
    """A control over this node."""
    control = Control(settings_of(node, **values))
    await control.start()
    try:
        yield control
    finally:
        await control.stop()


async def run_task(control: Control, task: str, **fields: Any) -> tuple[Task, list[Event]]:
    """A task of the agent `command`, to its end."""
    request = CreateSandbox.model_validate({"agent": "command", "task": task} | fields)
    made = (await control.create(request)).task
    assert made is not None
    return await finished(control, made.id)


async def finished(control: Control, task_id: str) -> tuple[Task, list[Event]]:
    async with asyncio.timeout(90):
        events = [event async for event in await control.tasks.follow(task_id)]
    return await control.tasks.get(task_id), events


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < end, "it has not come true in time"
        await asyncio.sleep(0.05)
    return found


def printed(events: list[Event], stream: str = "stdout") -> list[str]:
    """All lines of plain output."""
    return [
        line
        for event in events
        if event.type == "output" and event.data["stream"] == stream
        for line in event.data["text"].split("\n")
    ]


def assert_whole(events: list[Event]) -> None:
    """No gap, no double, and a result as the last."""
    assert [event.offset for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events].count("result") == 1  # type: ignore[comparison-overlap]
    assert events[-1].type == "result"


@asynccontextmanager
async def _dead() -> AsyncIterator[Transaction]:
    raise Crash
    yield


async def _in_one_trip(database: Database, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """`Database.transact`, so that whatever stands in for `write` sees it."""
    async with database.write() as connection:
        return await work(connection)


async def die(control: Control, *requests: asyncio.Task[Any]) -> None:
    """What `kill -9` leaves of a server: nothing of it runs, its lock and its connections are gone, and nothing was
    tidied up. What the server began a moment ago comes to nothing as well: it finds no database any more. `requests`
    are what it was asked for."""
    supervisor, creator, moves = control._supervisor, control._creator, control._moves
    database = control.store.database
    database.read = database.write = _dead  # type: ignore[method-assign]
    database.transact = lambda work: _in_one_trip(database, work)  # type: ignore[method-assign]
    supervisor._closed = True
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    while mine := {
        *control._background,
        *supervisor._workers.values(),
        *creator._boots.values(),
        *moves._under_way.values(),
    }:
        for victim in mine:
            victim.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        control._background = []
        await asyncio.sleep(0)  # those that have ended take themselves off the lists
    await control._opened.aclose()


class FaultyDatabase:
    """Makes the n-th write transaction fail: before its commit (nothing is written) or after it (everything is, but
    nobody is told)."""

    def __init__(self, database: Database, after: int, committed: bool) -> None:
        self._write = database.write
        self._left = after
        self._committed = committed
        self.died = asyncio.Event()
        database.write = self.write  # type: ignore[method-assign]
        database.transact = lambda work: _in_one_trip(database, work)  # type: ignore[method-assign]

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Transaction]:
        if self.died.is_set():
            raise Crash  # a dead process does nothing any more
        self._left -= 1
        doomed = self._left == 0
        async with self._write() as connection:
            yield connection
            if doomed and not self._committed:
                self.died.set()
                raise Crash
        if doomed:
            self.died.set()
            raise Crash


async def quiet(database: Database) -> None:
    """Until nobody writes of his own accord: a server tidies up when it starts, and a fault that counts writes means
    those of what is tested."""
    written, write, transact = 0, database.write, database.transact

    @asynccontextmanager
    async def counting() -> AsyncIterator[Transaction]:
        nonlocal written
        written += 1
        async with write() as connection:
            yield connection

    database.write = counting  # type: ignore[method-assign]
    database.transact = lambda work: _in_one_trip(database, work)  # type: ignore[method-assign]
    before = -1
    while before != written:
        before = written
        await asyncio.sleep(0.2)
    database.write, database.transact = write, transact  # type: ignore[method-assign]


def seed() -> int:
    """For what is random: given, or taken from the clock and printed by the test."""
    chosen = int(os.environ.get("HUTCH_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"HUTCH_TEST_SEED={chosen}")  # pytest shows it when the test fails
    return chosen
