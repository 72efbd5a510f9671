"""Requests from outside: for which of them a sandbox is woken and kept awake."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from hutch.control.service import Control
from hutch.errors import GuestUnavailable, SandboxNotRunning
from hutch.model import CreateSandbox, Pause, SandboxState, SnapshotKind
from hutch.store.e2b import E2bRow


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No guest answers: a test sees only whether one was to be reached."""

    async def refuse(*_: Any) -> None:
        raise GuestUnavailable("no guest here")

    monkeypatch.setattr("tests.unit.control.model_node.ModelGuest.connect", refuse, raising=False)


async def made(control: Control, pause: Pause | None = None, **options: Any) -> str:
    id = (await control.create(CreateSandbox())).id
    if options:
        async with control.store.database.write() as connection:
            await control.store.e2b.insert(connection, E2bRow(id, 600.0, time.time() + 600, options))
    if pause is not None:
        await control.pause(id, pause)
    return id


async def ask(control: Control, id: str, used: bool = True) -> SandboxState:
    """A request; answers what the sandbox is then."""
    with pytest.raises((GuestUnavailable, SandboxNotRunning)):
        await control.ports.connect(await control.ports.door(id), 80, asyncio.Protocol, used=used)
    return (await control.get(id)).state


@pytest.mark.parametrize("options", [{}, {"auto_resume": True}])
async def test_a_stranger_wakes_nobody(control: Control, options: dict[str, Any]) -> None:
    id = await made(control, Pause(), **options)
    assert await ask(control, id, used=False) is SandboxState.PAUSED
    assert await ask(control, id) is SandboxState.RUNNING


async def test_a_stranger_keeps_nobody_awake(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await made(control)
    known = control.ports._guests._known
    monkeypatch.setattr(known, "keep_only", lambda *_: None)  # the sweep may come between, and forget its use
    before = known.last_used(id)
    await ask(control, id, used=False)
    assert known.last_used(id) == before
    await ask(control, id)
    assert known.last_used(id) != before


async def test_what_was_made_through_e2bs_api_is_not_booted_by_a_request(control: Control) -> None:
    disk = Pause(mode=SnapshotKind.DISK)
    theirs = await made(control, disk, auto_resume=True)
    assert await ask(control, theirs) is SandboxState.HIBERNATED
    assert await ask(control, await made(control, disk)) is SandboxState.RUNNING
