"""What one sandbox sends and fetches through the broker takes no more of its CPU than its share."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hutch.egress.broker import session as module
from hutch.egress.broker.grants import Granted
from hutch.egress.broker.session import Place, Session
from hutch.egress.fence.bucket import Bucket


class Side:
    """A transport: whether it is read, and what was written."""

    def __init__(self) -> None:
        self.read, self.written = True, b""

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def abort(self) -> None: ...


class Watcher:
    """No secrets here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


@pytest.fixture
async def sides(monkeypatch: pytest.MonkeyPatch) -> tuple[Session, Side, Side, list[float]]:
    async def nowhere(self: Session, trusted: Any) -> None: ...

    clock = [0.0]
    monkeypatch.setattr(Session, "_connect", nowhere)
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module, "_REST", 3600.0)
    granted = SimpleNamespace(
        **{"id": "sbx_a", "begin": set().add, "end": lambda _: None, "share": Bucket(0.3, 1.0)},
        **{"watcher": Watcher, "masked": lambda _: set(), "wary": lambda _: False},
    )
    session = Session(cast(Granted, granted), Place("api.test", "192.0.2.1", 80), None, cast(Any, None))
    inward, outward = Side(), Side()
    session.connection_made(cast(Any, inward))
    session.opened(cast(Any, outward))
    session._answering = cast(Any, Passing())
    return session, inward, outward, clock


class Passing:
    """An answer without an end."""

    switched = done = holding = under_way = strict = False

    def feed(self, data: bytes) -> bytes:
        return data


async def test_a_download_is_charged_to_its_sandbox(
    sides: tuple[Session, Side, Side, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, inward, outward, clock = sides
    spent = iter(range(1000))
    monkeypatch.setattr(module, "thread_time", lambda: next(spent) * 0.4)  # each piece takes 400 ms
    for _ in range(2):
        session.came(b"x")
        assert outward.read and inward.read
    session.came(b"x")
    assert inward.written == b"xxx" and not outward.read and not inward.read, "a second, and it is used up"
    session.pause_writing()
    session._rested()
    assert inward.read and not outward.read, "the sandbox takes nothing"
    session.resume_writing()
    assert outward.read
    clock[0] += 1.0
    session.came(b"x")
    session.pause_writing()
    session.resume_writing()
    assert not outward.read, "it rests, however quickly the sandbox reads"
    session._rested()
    assert outward.read
    session.end()
    session.came(b"x")
    await asyncio.sleep(0)
