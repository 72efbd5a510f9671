"""That input was sent is in the audit log before it is passed on, how much a minute later, and none of its text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hutch.control.stdin_log import Source, StdinLog
from hutch.store.audit import Event

SOURCE = Source("org", "sbx_1", "key_1", "exe_1")


class Log:
    """Records, or fails."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fails = False

    async def record(self, event: Event) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("full")
        self.events.append(event)

    def told(self) -> list[tuple[str, dict[str, object]]]:
        return [(event.outcome, event.detail) for event in self.events]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def inputs(log: Log) -> StdinLog:
    return StdinLog(log)  # type: ignore[arg-type]


async def test_the_first_is_recorded_before_it_goes_on_and_the_rest_in_sum(log: Log, inputs: StdinLog) -> None:
    await asyncio.gather(inputs.note(SOURCE, b"pass"), inputs.note(SOURCE, b"word"))
    assert log.told() == [("begun", {"exec": "exe_1"})]
    await inputs.note(SOURCE, b"")
    await inputs.tell()
    assert log.told()[1:] == [("sent", {"exec": "exe_1", "bytes": 8, "pieces": 2})]
    await inputs.note(SOURCE, b"x")
    await inputs.tell()
    assert log.told()[2:] == [("sent", {"exec": "exe_1", "bytes": 1, "pieces": 1})]
    await inputs.tell()
    await inputs.note(SOURCE, b"x")
    assert log.told()[3:] == [("begun", {"exec": "exe_1"})]
    assert {(event.org, event.subject, event.by.actor) for event in log.events} == {("org", "sbx_1", "key_1")}


async def test_a_stream_is_counted_as_it_goes(log: Log, inputs: StdinLog) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"bc"):
            yield piece

    passed = [(piece, len(log.events)) async for piece in inputs.counted(SOURCE, pieces())]
    assert passed == [(b"a", 1), (b"", 1), (b"bc", 1)]
    await inputs.tell()
    assert log.told()[1:] == [("sent", {"exec": "exe_1", "bytes": 3, "pieces": 2})]


async def test_what_cannot_be_recorded_is_not_passed_on_and_no_sum_is_lost(log: Log, inputs: StdinLog) -> None:
    log.fails = True
    with pytest.raises(OSError, match="full"):
        await inputs.note(SOURCE, b"x")
    log.fails = False
    await inputs.note(SOURCE, b"xyz")
    log.fails = True
    with pytest.raises(OSError, match="full"):
        await inputs.tell()
    log.fails = False
    await inputs.tell()
    assert log.told() == [("begun", {"exec": "exe_1"}), ("sent", {"exec": "exe_1", "bytes": 3, "pieces": 1})]
