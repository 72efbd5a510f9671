"""What comes after a create: its first command finds the way to the guest made."""

from __future__ import annotations

import asyncio
import logging
from unittest.mock import AsyncMock

import pytest
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.errors import HutchError, IdempotencyConflict, SandboxNotFound, UnknownTemplate
from hutch.model import CreateSandbox

EXEC = "exe_" + "a" * 22


async def test_the_way_to_the_guest_is_made_ahead_and_known(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await control.create(CreateSandbox())
    async with asyncio.timeout(5):
        while node.reached != [made.id]:
            await asyncio.sleep(0.001)
    with monkeypatch.context() as patch:
        patch.setattr(control.store.sandboxes, "get", AsyncMock(side_effect=AssertionError("the row was read")))
        assert (await control.execs.get(made.id, EXEC)).running
    with pytest.raises(SandboxNotFound):
        await control.execs.get(made.id, EXEC, org="org_other")
    await control.delete(made.id)
    with pytest.raises(HutchError, match="is stopped"):
        await control.execs.get(made.id, EXEC)


async def test_a_guest_that_cannot_be_reached_yet_is_nobodys_error(
    control: Control, node: ModelNode, caplog: pytest.LogCaptureFixture
) -> None:
    node.unreachable = True
    made = await control.create(CreateSandbox())
    async with asyncio.timeout(5):
        while control._creator._reaching:
            await asyncio.sleep(0.001)
    assert (await control.execs.get(made.id, EXEC)).running
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_key_that_was_used_answers_although_the_call_could_not_be_made_anew(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Idempotency("key_of_ada", "one")
    made = await control.create(CreateSandbox(), idempotency=key)
    assert await control.create(CreateSandbox(), idempotency=key) == made
    with pytest.raises(IdempotencyConflict, match="another request"):
        await control.create(CreateSandbox(template="unheard-of"), idempotency=key)
    monkeypatch.setattr(control._templates, "known", AsyncMock(return_value=[]))
    assert await control.create(CreateSandbox(), idempotency=key) == made
    with pytest.raises(UnknownTemplate):
        await control.create(CreateSandbox(), idempotency=Idempotency("key_of_ada", "two"))
    with pytest.raises(UnknownTemplate):
        await control.create(CreateSandbox())
