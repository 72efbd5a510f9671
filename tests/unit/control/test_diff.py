"""Who may compare what; the node does the rest."""

from __future__ import annotations

import pytest
from tests.unit.control.model_node import ModelNode
from tests.unit.control.test_moves import make

from hutch.control.service import Control
from hutch.errors import Conflict, SandboxNotFound, SandboxNotRunning, SnapshotNotFound
from hutch.model import CreateSnapshot, DiffRequest, SandboxState, new_id


async def test_points_are_of_its_own_timeline_and_org(control: Control, node: ModelNode) -> None:
    box, other = await make(control), await make(control)
    mine = (await control.take_snapshot(box.id, CreateSnapshot())).id
    theirs = (await control.take_snapshot(other.id, CreateSnapshot())).id
    found = await control.diff(box.id, DiffRequest(from_snapshot=mine))
    assert found.from_snapshot == mine
    with pytest.raises(Conflict, match="timeline"):
        await control.diff(box.id, DiffRequest(from_snapshot=mine, to_snapshot=theirs))
    with pytest.raises(SnapshotNotFound):
        await control.diff(box.id, DiffRequest(to_snapshot=new_id("snp")))
    with pytest.raises(SandboxNotFound):
        await control.diff(box.id, DiffRequest(), org="org_other")
    assert node.calls["diff"] == 1


async def test_nobody_is_woken_for_it(control: Control, node: ModelNode) -> None:
    box = await make(control)
    paused = await control.pause(box.id)
    await control.diff(box.id, DiffRequest())
    assert (await control.get(box.id)).state is SandboxState.PAUSED
    named = (await control.take_snapshot(box.id, CreateSnapshot(name="kept"))).id
    await control.delete(box.id)
    with pytest.raises(SandboxNotRunning):
        await control.diff(box.id, DiffRequest(from_snapshot=named))
    assert (await control.diff(box.id, DiffRequest(to_snapshot=named))).added == 0
    assert paused.snapshot is not None
