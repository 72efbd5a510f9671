"""Questions for identity tokens: who asks is told by the address, and every question is answered, soon, to the one who
asked it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from hutch.egress.llm.refused import Refused
from hutch.model import DenyAll, IdentityAnswer, Resources
from hutch.node import asking
from hutch.node.asking import AT_ONCE, BURST, Desk
from hutch.node.entry import Entry, Registry
from hutch.node.records import SandboxRecord

RESOURCES = Resources(cpus=1, memory_mib=512, disk_mib=1024, pids=128)
ADDRESS = "10.200.0.2"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def desk(registry: Registry) -> Desk:
    return Desk(registry)


def living(registry: Registry, id: str, address: str = ADDRESS, slot: int = 0) -> Entry:
    record = SandboxRecord(
        id=id,
        step="running",
        template="standard",
        resources=RESOURCES,
        network=DenyAll(),
        deadline=1e12,
        guest_token="",
        started_at=datetime.now(UTC),
        machine_boot="",
        image="ab12",
        slot=slot,
        address=address,
    )
    entry = Entry(record)
    registry.add(entry)
    return entry


async def status_of(question: asyncio.Task[IdentityAnswer]) -> int:
    with pytest.raises(Refused) as refused:
        await question
    return refused.value.status


async def test_each_gets_the_answer_to_its_own_question(registry: Registry, desk: Desk) -> None:
    living(registry, "sbx_a")
    living(registry, "sbx_b", "10.200.0.6", 1)
    first = asyncio.create_task(desk.ask(ADDRESS, "one"))
    second = asyncio.create_task(desk.ask("10.200.0.6", "two"))
    await asyncio.sleep(0)
    asked = {each.sandbox: each for each in await desk.take(1)}
    assert {(each.sandbox, each.audience, each.image) for each in asked.values()} == {
        ("sbx_a", "one", "ab12"),
        ("sbx_b", "two", "ab12"),
    }
    desk.answer(IdentityAnswer(id=asked["sbx_b"].id, token="B"))
    desk.answer(IdentityAnswer(id=asked["sbx_a"].id, token="A"))
    desk.answer(IdentityAnswer(id="of nobody", token="X"))
    assert [(await first).token, (await second).token] == ["A", "B"]


async def test_an_address_that_went_to_another_meanwhile_gets_nothing(registry: Registry, desk: Desk) -> None:
    entry = living(registry, "sbx_a")
    question = asyncio.create_task(desk.ask(ADDRESS, "a"))
    await asyncio.sleep(0)
    (asked,) = await desk.take(1)
    entry.record = entry.record.but(step="paused", slot=None)
    living(registry, "sbx_b")
    desk.answer(IdentityAnswer(id=asked.id, token="A"))
    assert await status_of(question) == 403


async def test_who_does_not_run_and_who_is_unknown_get_nothing(registry: Registry, desk: Desk) -> None:
    entry = living(registry, "sbx_a")
    entry.record = entry.record.but(step="booting")
    assert await status_of(asyncio.create_task(desk.ask(ADDRESS, "a"))) == 403
    assert await status_of(asyncio.create_task(desk.ask("127.0.0.1", "a"))) == 403
    assert await desk.take(0) == []


async def test_a_refusal_of_the_server_is_told(registry: Registry, desk: Desk) -> None:
    living(registry, "sbx_a")
    question = asyncio.create_task(desk.ask(ADDRESS, "a"))
    (asked,) = await desk.take(1)
    desk.answer(IdentityAnswer(id=asked.id, refused="it has ended"))
    assert await status_of(question) == 403


async def test_a_server_that_dies_with_a_question_leaves_it_to_the_next(
    registry: Registry, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_AGAIN", 0.05)
    living(registry, "sbx_a")
    question = asyncio.create_task(desk.ask(ADDRESS, "a"))
    (first,) = await desk.take(1)
    assert await desk.take(0) == []  # it is being answered, for all we know
    (again,) = await desk.take(5)
    assert again == first
    desk.answer(IdentityAnswer(id=again.id, token="A"))
    desk.answer(IdentityAnswer(id=again.id, token="late"))
    assert (await question).token == "A"


async def test_without_a_server_a_question_ends(
    registry: Registry, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.05)
    living(registry, "sbx_a")
    assert await status_of(asyncio.create_task(desk.ask(ADDRESS, "a"))) == 503
    assert await desk.take(0) == []


async def test_one_sandbox_asks_only_so_often_and_the_others_still_can(registry: Registry, desk: Desk) -> None:
    living(registry, "sbx_a")
    living(registry, "sbx_b", "10.200.0.6", 1)
    questions = [asyncio.create_task(desk.ask(ADDRESS, "a")) for _ in range(AT_ONCE + 1)]
    await asyncio.sleep(0)
    assert await status_of(questions[-1]) == 429
    for asked in await desk.take(0):
        desk.answer(IdentityAnswer(id=asked.id, token="A"))
    await asyncio.gather(*questions[:-1])
    for _ in range(int(BURST) - AT_ONCE - 1):
        await one_more(desk, ADDRESS)
    with pytest.raises(Refused):
        for _ in range(3):
            await one_more(desk, ADDRESS)
    await one_more(desk, "10.200.0.6")


async def one_more(desk: Desk, address: str) -> None:
    question = asyncio.create_task(desk.ask(address, "a"))
    await asyncio.sleep(0)
    for asked in await desk.take(0):
        desk.answer(IdentityAnswer(id=asked.id, token="A"))
    await question


async def test_a_node_that_stops_does_not_wait_for_those_who_wait_for_questions(desk: Desk) -> None:
    waiting = [asyncio.create_task(desk.take(3600)) for _ in range(2)]
    await asyncio.sleep(0)
    desk.wake()
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waiting, desk.take(3600)) == [[], [], []]
