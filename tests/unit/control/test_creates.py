"""What comes after a create: its first command finds the way to the guest made."""

from __future__ import annotations

import asyncio
import logging
from unittest.mock import AsyncMock

import pytest
from tests.unit.control.model_node import RESOURCES, ModelNode

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.errors import HutchError, IdempotencyConflict, SandboxNotFound, UnknownTemplate
from hutch.model import CreateSandbox, TemplateInfo

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
    monkeypatch.setattr(control._templates, "with_name", AsyncMock(return_value=[]))
    assert await control.create(CreateSandbox(), idempotency=key) == made
    with pytest.raises(UnknownTemplate):
        await control.create(CreateSandbox(), idempotency=Idempotency("key_of_ada", "two"))
    with pytest.raises(UnknownTemplate):
        await control.create(CreateSandbox())


async def test_a_create_asks_for_its_own_template_and_for_all_only_to_say_which_there_are(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("hutch.control.templates.time.monotonic", lambda: clock)
    asked: list[str] = []
    every = node.templates

    async def template(name: str) -> TemplateInfo:
        asked.append(name)
        if name == "own":
            return TemplateInfo(name=name, description="", resources=RESOURCES, image="sha", org="org_a")
        for each in await every():
            if each.name == name:
                return each
        raise UnknownTemplate(name)

    async def templates() -> list[TemplateInfo]:
        asked.append("all")
        return await every()

    monkeypatch.setattr(node, "template", template)
    known = control._templates
    await asyncio.gather(*(known.with_name("standard", "org_a") for _ in range(3)))
    assert [each.name for each in await known.with_name("own", "org_a")] == ["own"]
    assert asked == ["standard", "own"]
    monkeypatch.setattr(node, "templates", templates)
    assert [each.name for each in await known.with_name("own", "org_b")] == ["standard"]
    assert asked == ["standard", "own", "all"]
    await known.with_name("standard", "org_b")  # all are known now
    assert asked == ["standard", "own", "all"]
    clock += 6
    await known.with_name("standard", "org_b")
    known.forget()
    await known.with_name("standard", "org_b")
    assert asked[3:] == ["standard"] * 2
    with pytest.raises(UnknownTemplate, match="unheard-of"):
        await control.create(CreateSandbox(template="unheard-of"))
    clock += 6
    assert await control.has_template("standard") and not await control.has_template("own", org="org_a")
    assert not await control.has_template("x" * 10_000)
