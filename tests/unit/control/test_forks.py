"""Snapshots and forks on a real database, over a model of the node."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from tests.integration.control_host import FaultyDatabase, die, quiet, until
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelFleet, ModelNode

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidRequest,
    SandboxNotFound,
    SandboxNotRunning,
    SnapshotNotFound,
    ThawFailed,
)
from hutch.model import (
    CreateSandbox,
    CreateSnapshot,
    Fork,
    Rollback,
    Sandbox,
    SandboxState,
    SnapshotReason,
    TemplateInfo,
    new_id,
)
from hutch.settings import Settings


async def make(control: Control, **fields: Any) -> Sandbox:
    return await control.create(CreateSandbox.model_validate(fields))


async def test_a_fork_has_its_parents_shape_and_none_of_its_secrets(control: Control, node: ModelNode) -> None:
    fields = {"labels": {"a": "b"}, "network": {"mode": "allow_all"}, "idle_timeout": 9.0, "env": {"SECRET": "x"}}
    box = await make(control, **fields, lifetime=500, resources={"memory_mib": 900})
    made = await control.fork(box.id, Fork(count=3), by="key_1")
    assert len({each.id for each in made}) == 3 and node.calls["snapshot"] == 1
    for each in made:
        assert (each.state, each.labels, each.network) == (SandboxState.RUNNING, box.labels, box.network)
        assert (each.idle_timeout, each.resources.memory_mib, each.task) == (9.0, 900, None)
        assert 490 < (each.deadline - each.created_at).total_seconds() <= 500.001
        boot = node.boots[each.id]
        assert (boot.env, boot.llm, boot.org) == ({}, None, "org_default")
    source = node.boots[made[0].id].from_snapshot
    assert source is not None and node.records[source].reason is SnapshotReason.FORK
    assert [snapshot.id for _, snapshot in await control.timeline(made[0].id)] == [source]


async def test_a_fork_of_a_paused_sandbox_lets_it_sleep(control: Control, node: ModelNode) -> None:
    box = await make(control)
    paused = await control.pause(box.id)
    (made,) = await control.fork(box.id, Fork.model_validate({"from": paused.snapshot}))
    await control.fork(box.id, Fork())
    assert node.boots[made.id].from_snapshot == paused.snapshot
    assert (await control.get(box.id)).state is SandboxState.PAUSED and node.calls["resume"] == 0


async def test_the_node_is_asked_for_its_templates_once_for_all_of_a_fork(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await make(control)
    control._templates.forget()
    asked, templates = [], node.templates

    async def asking() -> list[TemplateInfo]:
        asked.append(1)
        await asyncio.sleep(0.2)
        return await templates()

    monkeypatch.setattr(node, "templates", asking)
    await control.fork(box.id, Fork(count=8))
    assert len(asked) <= 2  # the tidying of builds may ask just then


async def test_sixty_four_at_once_and_no_more(control: Control, node: ModelNode) -> None:
    box = await make(control)
    made = await control.fork(box.id, Fork(count=64))
    assert {each.id for each in made} | {box.id} == set(node.boxes) and len(node.boxes) == 65
    assert len(node.records) == 1
    for count in (0, 65):
        with pytest.raises(ValidationError):
            Fork(count=count)


async def test_the_same_key_forks_once(control: Control, node: ModelNode) -> None:
    box = await make(control)
    key = Idempotency("key_1", "k" * 255)
    answers = await asyncio.gather(*(control.fork(box.id, Fork(count=2), idempotency=key) for _ in range(3)))
    assert len({each.id for answer in answers for each in answer}) == 2
    assert len(node.records) == 1 and node.calls["boot"] == 3
    await control.delete(box.id)
    again = await control.fork(box.id, Fork(count=2), idempotency=key)
    assert [each.id for each in again] == [each.id for each in answers[0]]
    other = await make(control)
    taken = await control.take_snapshot(other.id, CreateSnapshot())
    with pytest.raises(IdempotencyConflict):
        await control.fork(other.id, Fork.model_validate({"from": taken.id}), idempotency=key)


async def test_a_fork_that_fails_leaves_nothing(control: Control, node: ModelNode) -> None:
    box = await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    boot, count = node.boot, 0

    async def third_fails(id: str, request: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise ThawFailed("no")
        return await boot(id, request)

    node.boot = third_fails  # type: ignore[method-assign]
    key, wish = Idempotency("key_1", "k"), Fork.model_validate({"count": 4, "from": taken.id})
    with pytest.raises(ThawFailed):
        await control.fork(box.id, wish, idempotency=key)
    assert set(node.boxes) == {box.id}
    assert [each.id for each in (await control.list()).items] == [box.id]


async def test_a_fork_of_now_that_fails_leaves_no_snapshot(control: Control, node: ModelNode) -> None:
    box = await make(control)
    node.refusals["boot"] = ThawFailed("no")
    for key in (None, Idempotency("key_1", "k"), Idempotency("key_1", "k")):
        with pytest.raises(ThawFailed):
            await control.fork(box.id, Fork(count=2), idempotency=key)
        assert node.records == {}


async def test_a_fork_that_a_crash_cut_is_finished_by_the_same_key(settings: Settings, node: ModelNode) -> None:
    key = Idempotency("key_1", "k")
    first = Control(settings, ModelFleet(node))
    await first.start()
    box = await make(first)
    await quiet(first.store.database)
    faulty = FaultyDatabase(first.store.database, 3, True)
    forking = asyncio.create_task(first.fork(box.id, Fork(count=3), idempotency=key))
    await asyncio.wait_for(faulty.died.wait(), 10)
    forking.cancel()
    await die(first)
    await asyncio.gather(forking, return_exceptions=True)
    async with controlling(settings, node) as second:
        made = await second.fork(box.id, Fork(count=3), idempotency=key)
        assert all(each.state is SandboxState.RUNNING for each in made)
        await second._reconciler.run()
        assert set(node.boxes) == {box.id, *(each.id for each in made)}
        assert len(node.records) == 1


@pytest.mark.parametrize("commits", [5, 8])
async def test_a_fork_without_a_key_that_a_crash_cut_leaves_nothing(
    settings: Settings, node: ModelNode, commits: int
) -> None:
    """Nobody was told what they are called. Those that were made without a crash stay."""
    first = Control(settings, ModelFleet(node))
    await first.start()
    box = await make(first)
    before = await first.fork(box.id, Fork(count=2))
    await quiet(first.store.database)
    faulty = FaultyDatabase(first.store.database, commits, True)
    forking = asyncio.create_task(first.fork(box.id, Fork(count=3)))
    await asyncio.wait_for(faulty.died.wait(), 10)
    await die(first, forking)
    assert len(node.boxes) > 3
    async with controlling(settings, node) as second:

        async def swept() -> bool:
            return set(node.boxes) == {box.id, *(each.id for each in before)}

        await until(swept, 10)
        await until(lambda: _none_but(second, {box.id, *(each.id for each in before)}), 10)


async def _none_but(control: Control, ids: set[str]) -> bool:
    return {each.id for each in (await control.list()).items} == ids


async def test_a_rollback_and_a_fork_at_once(control: Control, node: ModelNode) -> None:
    box = await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    back, made, paused = await asyncio.gather(
        control.rollback(box.id, Rollback(snapshot=taken.id)),
        control.fork(box.id, Fork(count=2)),
        control.pause(box.id),
    )
    assert back.id == paused.id == box.id and len(made) == 2
    assert (await control.get(box.id)).state in (SandboxState.RUNNING, SandboxState.PAUSED)
    assert node.boxes[box.id].state == (await control.get(box.id)).state


async def test_the_same_key_takes_one_snapshot(control: Control, node: ModelNode) -> None:
    box, other = await make(control), await make(control)
    key, wish = Idempotency("key_1", "k"), CreateSnapshot(name="n")
    first = await control.take_snapshot(box.id, wish, idempotency=key)
    await control.take_snapshot(box.id, wish, idempotency=Idempotency("key_2", "k"))
    assert len(node.records) == 2
    await control.delete(box.id)
    assert await control.take_snapshot(box.id, wish, idempotency=key) == first
    for call in (control.take_snapshot(other.id, wish, idempotency=key),
                 control.take_snapshot(box.id, CreateSnapshot(), idempotency=key)):  # fmt: skip
        with pytest.raises(IdempotencyConflict):
            await call


async def test_snapshots_belong_to_their_org(control: Control) -> None:
    box = await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot(name="n"), by="key_1")
    assert (taken.name, taken.created_by, taken.reason) == ("n", "key_1", SnapshotReason.MANUAL)
    for call in (control.snapshot(taken.id, org="org_b"), control.delete_snapshot(taken.id, org="org_b"),
                 control.create(CreateSandbox.model_validate({"from": taken.id}), org="org_b"),
                 control.snapshot(new_id("snp")), control.snapshot("snp_../x")):  # fmt: skip
        with pytest.raises(SnapshotNotFound):
            await call
    for call in (control.snapshots(box.id, org="org_b"), control.timeline(box.id, org="org_b"),
                 control.fork(box.id, Fork(), org="org_b"),
                 control.rollback(box.id, Rollback(snapshot=taken.id), org="org_b")):  # fmt: skip
        with pytest.raises(SandboxNotFound):
            await call
    await control.delete_snapshot(taken.id)
    with pytest.raises(SnapshotNotFound):
        await control.snapshot(taken.id)


async def test_a_rollback_goes_to_the_sandboxs_own_timeline(control: Control) -> None:
    box, other = await make(control), await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    with pytest.raises(Conflict):
        await control.rollback(other.id, Rollback(snapshot=taken.id))
    (child,) = await control.fork(box.id, Fork.model_validate({"from": taken.id}))
    assert (await control.rollback(child.id, Rollback(snapshot=taken.id))).id == child.id


async def test_what_has_ended_is_neither_saved_nor_rolled_back(control: Control) -> None:
    box = await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    await control.delete(box.id)
    for call in (control.take_snapshot(box.id, CreateSnapshot()), control.fork(box.id, Fork()),
                 control.rollback(box.id, Rollback(snapshot=taken.id))):  # fmt: skip
        with pytest.raises(SandboxNotRunning):
            await call
    (made,) = await control.fork(box.id, Fork.model_validate({"from": taken.id}))
    assert made.state is SandboxState.RUNNING


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"template": "other"}, "template"),
        ({"resources": {"disk_mib": 2000}}, "resources"),
        ({"resources": {"pids": 200}}, "resources"),
        ({"resources": {"memory_mib": 128}}, "resources.memory_mib"),
    ],
)
async def test_what_a_fork_cannot_have_otherwise(control: Control, fields: dict[str, Any], field: str) -> None:
    box = await make(control)
    taken = await control.take_snapshot(box.id, CreateSnapshot())
    with pytest.raises(InvalidRequest) as caught:
        await make(control, **{"from": taken.id}, **fields)
    assert caught.value.extra["field"] == field
    larger = await make(control, **{"from": taken.id, "template": "standard", "resources": {"memory_mib": 2048}})
    assert larger.resources.memory_mib == 2048
