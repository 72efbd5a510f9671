"""Everything at once, on a node that is slow, refuses, and goes away, under a server that is killed: in the end the row
says what the node says, nobody waits for ever, and nobody is told anything but an error of ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from tests.integration.control_host import Crash, die, seed
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelFleet, ModelNode

from hutch.control.service import Control
from hutch.errors import FreezeFailed, HutchError, NodeUnavailable, SandboxNotRunning, ThawFailed
from hutch.model import CreateSandbox, CreateSnapshot, Fork, Rollback
from hutch.settings import Settings

EXEC = "exe_" + "a" * 22
CALLERS, CALLS, LIVES = 6, 12, 4


class RoughNode(ModelNode):
    """Takes its time; may refuse before a change, and may go away before or after it."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.rough = True

    async def _enter(self, name: str) -> None:
        await super()._enter(name)
        await asyncio.sleep(self.chance.uniform(0, 0.02))
        if self.rough and name in ("pause", "resume", "rollback", "snapshot") and self.chance.random() < 0.15:
            raise self.chance.choice([FreezeFailed("x"), ThawFailed("x"), NodeUnavailable("x")])

    async def pause(self, *arguments: Any) -> Any:
        return self._answer(await super().pause(*arguments))

    async def resume(self, *arguments: Any) -> Any:
        return self._answer(await super().resume(*arguments))

    async def rollback(self, *arguments: Any) -> Any:
        return self._answer(await super().rollback(*arguments))

    def _answer(self, found: Any) -> Any:
        if self.rough and self.chance.random() < 0.1:
            raise NodeUnavailable("the answer was lost")
        return found


def calls(control: Control, id: str, chance: random.Random) -> list[Callable[[], Awaitable[Any]]]:
    async def back() -> None:
        known = await control.snapshots(id)
        await control.rollback(id, Rollback(snapshot=chance.choice(known).id))

    async def fork() -> None:
        for made in await control.fork(id, Fork(count=2)):
            await control.delete(made.id)

    async def use() -> None:
        await control.execs.get(id, EXEC)

    return [
        use,
        use,
        fork,
        back,
        lambda: control.pause(id),
        lambda: control.resume(id),
        lambda: control.take_snapshot(id, CreateSnapshot()),
    ]


async def call_about(control: Control, id: str, chance: random.Random) -> None:
    for _ in range(CALLS):
        with suppress(HutchError):
            async with asyncio.timeout(20):
                await chance.choice(calls(control, id, chance))()


@pytest.mark.parametrize("ends", ["in its sleep or awake", "deleted in the middle"])
async def test_the_row_says_what_the_node_says_in_the_end(settings: Settings, ends: str) -> None:
    chance = random.Random(seed())
    node = RoughNode(chance)
    id = ""
    for life in range(LIVES):
        control = Control(settings, ModelFleet(node))
        await control.start()
        if not id:
            id = (await control.create(CreateSandbox())).id
            node.rough = False
            await control.take_snapshot(id, CreateSnapshot())
            node.rough = True
        callers = [asyncio.create_task(call_about(control, id, chance)) for _ in range(CALLERS)]
        if life < LIVES - 1:
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            await die(control, *callers)
            answers = await asyncio.gather(*callers, return_exceptions=True)
            assert all(each is None or isinstance(each, Crash | asyncio.CancelledError) for each in answers), answers
        else:
            if ends == "deleted in the middle":
                await control.delete(id)
            await asyncio.gather(*callers)
            await control.stop()
    node.rough = False
    async with controlling(settings, node) as last:
        await last._reconciler.run()
        row = await last.store.sandboxes.get(id)
        assert row is not None
        if ends == "deleted in the middle":
            assert row.state == "stopped" and id not in node.boxes
            with pytest.raises(SandboxNotRunning):
                await last.resume(id)
        else:
            assert row.state in ("running", "paused") and node.boxes[id].state == row.state
            await last.execs.get(id, EXEC)
        await last._reconciler.run()
        alive = {each.id for each in (await last.list(limit=1000)).items}
        assert set(node.boxes) == alive
