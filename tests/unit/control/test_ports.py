"""Requests from outside: for which of them a sandbox is woken and kept awake."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from hutch.control.service import Control
from hutch.errors import Conflict, GuestUnavailable, LimitReached, SandboxNotFound, SandboxNotRunning
from hutch.model import MAX_PUBLIC_PORTS, CreateSandbox, Fork, Pause, Rollback, SandboxState, SnapshotKind
from hutch.store.e2b import E2bRow

ORG = "org_default"


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


async def publish(control: Control, id: str, *ports: int, public: bool = True) -> None:
    await asyncio.gather(*(control.ports.set_public(id, port, public, org=ORG) for port in ports))


async def test_public_ports_outlast_what_happens_to_the_sandbox_and_are_no_forks(control: Control) -> None:
    id = (await control.create(CreateSandbox(public_ports=[9000, 8000, 9000]))).id
    assert await control.ports.public(id, org=ORG) == [8000, 9000]
    snapshot = (await control.pause(id)).snapshot
    assert snapshot is not None
    await publish(control, id, 1, 65535, 8080)  # at once: none is lost
    await publish(control, id, 9000, public=False)
    assert (await control.get(id)).state is SandboxState.PAUSED
    await control.resume(id)
    await control.rollback(id, Rollback(snapshot=snapshot))
    assert await control.ports.public(id, org=ORG) == [1, 8000, 8080, 65535]
    (fork,) = await control.fork(id, Fork(count=1))
    assert await control.ports.published([id, fork.id, "sbx_other"]) == {id: [1, 8000, 8080, 65535], fork.id: []}


async def test_each_change_is_in_the_audit_log_once(control: Control) -> None:
    id = (await control.create(CreateSandbox(public_ports=[22]))).id
    for public in (True, True, False, False):
        await publish(control, id, 8000, public=public)
    found = await control.store.audit.page(ORG, 0, 1000, subject=id, action="port")
    told = [(each.detail["port"], each.outcome) for each in found]
    assert told == [(22, "public"), (8000, "public"), (8000, "private")]


async def test_which_ports_cannot_be_made_public(control: Control) -> None:
    many = list(range(1, MAX_PUBLIC_PORTS + 1))
    id = (await control.create(CreateSandbox(public_ports=many))).id
    with pytest.raises(LimitReached) as full:
        await publish(control, id, 8000)
    assert full.value.extra["limit"] == "public_ports"
    await publish(control, id, 1)  # is already
    await publish(control, id, 1, public=False)
    await publish(control, id, 8000)
    with pytest.raises(SandboxNotFound):
        await control.ports.set_public(id, 80, True, org="org_other")
    theirs = await made(control, public=True)
    await publish(control, theirs, 8000)
    with pytest.raises(Conflict, match="all ports"):
        await publish(control, theirs, 8000, public=False)
    await control.delete(id)
    for late in (control.ports.public(id, org=ORG), publish(control, id, 80)):
        with pytest.raises(SandboxNotRunning):
            await late
