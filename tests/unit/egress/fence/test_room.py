"""What the fence has for all sandboxes is not used up by some of them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hutch.egress.fence import connection as module
from hutch.egress.fence.connection import LINGER_SECONDS, Connection
from hutch.egress.fence.dns_wire import NOERROR, SERVFAIL, Answer, parse_answer, question
from hutch.egress.fence.guarded import Wall
from hutch.egress.fence.names import NameTable
from hutch.egress.fence.questions import respond
from hutch.egress.fence.upstream import Upstream
from hutch.model import NetworkRules
from hutch.shares import Shares

GOOD, HONEST = "25.25.25.10", "10.0.1.2"
HOSTILE = [f"10.0.0.{number}" for number in range(2, 200)]


class Node:
    """Lets in all, and hears all."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    async def bind(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> bool:
        return True

    def report(self, **entry: Any) -> None:
        self.told.append(entry)


@pytest.fixture
def wall() -> Wall:
    made = Wall(Node(), ("192.0.2.53", 53), 60, "", 20_000)
    for number, address in enumerate([*HOSTILE, HONEST]):
        made.put(f"sbx_{number}", address, NetworkRules(public=True))
    return made


async def test_names_without_an_answer_keep_no_other_sandbox_from_its_own(
    wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(self: Upstream, name: str, server: tuple[str, int]) -> Answer:
        if name.endswith(".silent.test"):
            await asyncio.Event().wait()
        return Answer(NOERROR, [GOOD], 60, False)

    monkeypatch.setattr(Upstream, "_ask", answer)
    asked = question(7, "good.test")
    waiting = []
    for address in HOSTILE:
        for number in range(100):
            task = asyncio.create_task(respond(wall, address, question(7, f"n{number}.silent.test")))
            waiting.append(task)
            await asyncio.sleep(0)
            if number % 2:
                task.cancel()  # it asks over TCP, and hangs up: the name server is still asked
    got = await asyncio.wait_for(respond(wall, HONEST, asked), 5)
    assert got is not None and parse_answer(got, asked, "good.test").addresses == [GOOD]
    got = await asyncio.wait_for(respond(wall, HOSTILE[0], asked), 5)
    assert got is not None and parse_answer(got, asked, "good.test").code == SERVFAIL
    assert any(entry["reason"].startswith("too many") for entry in cast(Node, wall.node).told if entry.get("reason"))
    for task in [*waiting, *wall.upstream._asked.values()]:
        task.cancel()
    await asyncio.gather(*waiting, *wall.upstream._asked.values(), return_exceptions=True)
    got = await asyncio.wait_for(respond(wall, HOSTILE[0], asked), 5)
    assert got is not None and parse_answer(got, asked, "good.test").addresses == [GOOD]


def test_the_oldest_addresses_of_a_sandbox_make_room_for_its_own_new_ones_only() -> None:
    room = Shares(100, 60, range(3))
    greedy, honest = NameTable("a", room), NameTable("b", room)
    honest.add("good.test", [GOOD], 10)
    for number in range(1000):
        greedy.add(f"n{number}.test", [f"25.0.{number // 250}.{number % 250}"], 10)
    assert len(greedy) == 49
    assert greedy.at("25.0.3.249", 1) == ["n999.test"]
    assert honest.at(GOOD, 1) == ["good.test"]
    greedy.clear()
    honest.sweep(11)
    assert room.take("c", 50)


class Side:
    """A transport to somebody who takes nothing."""

    def __init__(self) -> None:
        self.waiting, self.read, self.aborted, self.closed = 0, True, False, False

    def get_extra_info(self, name: str) -> Any:
        return (HONEST, 1) if name == "peername" else None

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        self.waiting += len(data)

    def pause_reading(self) -> None:
        self.read = False

    def resume_reading(self) -> None:
        self.read = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int) -> None: ...


def opened(wall: Wall) -> tuple[Connection, Side, Side]:
    connection, inward, outward = Connection(wall), Side(), Side()
    connection.connection_made(cast(Any, inward))
    connection.opened(cast(Any, outward))
    return connection, inward, outward


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(self: Connection) -> None: ...

    monkeypatch.setattr(Connection, "_connect", nowhere)
    monkeypatch.setattr(module, "_original_target", lambda _: (GOOD, 443))


@pytest.mark.usefixtures("direct")
async def test_what_nobody_takes_has_its_bound_and_is_told(wall: Wall) -> None:
    piece = bytes(512 << 10)
    made = []
    while (held := wall.room.held.of(HONEST)) + len(piece) <= wall.room.held.most_of_one:
        connection, inward, outward = opened(wall)
        connection.answered(piece)
        connection.pause_writing()
        assert not outward.read
        assert wall.room.held.of(HONEST) == held + len(piece)
        made.append((connection, inward))
    connection, inward, outward = opened(wall)
    connection.data_received(piece)
    connection.hold()
    await asyncio.sleep(0)
    assert inward.aborted and outward.aborted
    assert "than there is room for" in cast(Node, wall.node).told[-1]["reason"]
    first, inward = made[0]
    inward.waiting = 0
    first.resume_writing()
    assert wall.room.held.may(HONEST, len(piece))
    guarded = wall.find(HONEST)
    assert guarded is not None
    guarded.forget()
    assert wall.room.held.of(HONEST) == wall.room.connections.of(HONEST) == 0


@pytest.mark.usefixtures("direct")
async def test_what_is_left_to_be_sent_counts_until_it_is_or_is_given_up(wall: Wall) -> None:
    connection, _, outward = opened(wall)
    connection.data_received(bytes(256 << 10))
    connection.hold()
    connection.connection_lost(None)  # the guest has gone, and hopes that this is forgotten
    assert outward.closed
    assert wall.room.held.of(HONEST) == 256 << 10
    wall.sweep(asyncio.get_running_loop().time() + LINGER_SECONDS + 1)
    assert outward.aborted
    assert wall.room.held.of(HONEST) == wall.room.connections.of(HONEST) == 0
    connection, _, outward = opened(wall)
    connection.data_received(b"all")
    connection.connection_lost(None)
    assert wall.room.connections.of(HONEST) == 1
    connection.outward_lost(None)
    assert wall.room.connections.of(HONEST) == 0
    assert cast(Node, wall.node).told[-1]["sent"] == 3


@pytest.mark.usefixtures("direct")
async def test_a_connection_for_which_there_is_no_room_is_told(wall: Wall) -> None:
    while wall.room.connections.take(HONEST):
        pass
    connection, inward = Connection(wall), Side()
    connection.connection_made(cast(Any, inward))
    assert inward.aborted
    assert cast(Node, wall.node).told[-1]["reason"] == "its connections are more than there is room for"


@pytest.mark.usefixtures("direct")
async def test_a_little_that_waits_counts_as_the_piece_that_it_is_the_rest_of(wall: Wall) -> None:
    connection, _, _ = opened(wall)
    connection.answered(bytes(20_000))
    connection.pause_writing()
    assert wall.room.held.of(HONEST) == 256_000
    connection.resume_writing()
    assert wall.room.held.of(HONEST) == 0
    connection.end()
