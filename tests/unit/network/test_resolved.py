"""How places get into the kernel: many at once in one transaction, and nobody behind another's many."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import pytest

from hutch.errors import InternalError
from hutch.network import resolved
from hutch.network.nft import NftError
from hutch.network.resolved import Resolved


class Kernel:
    """Takes transactions one by one, as the test lets it."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.may = threading.Semaphore(0)
        self.refuses = ""

    def run(self, commands: str) -> str:
        assert self.may.acquire(timeout=60)
        self.taken.append(commands)
        if self.refuses and self.refuses in commands:
            raise NftError("no room")
        return ""

    def close(self) -> None: ...


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(resolved, "Nft", lambda: made)
    return made


@pytest.fixture
def places(kernel: Kernel) -> Iterator[Resolved]:
    made = Resolved("node")
    yield made
    kernel.may.release(100)
    made.close()


def ask(places: Resolved, guest: str, address: str) -> asyncio.Task[None]:
    return asyncio.create_task(places.add(guest, [(address, 443)], 60))


async def test_what_one_asks_does_not_wait_behind_anothers_flood(kernel: Kernel, places: Resolved) -> None:
    flood = [ask(places, "10.0.0.1", f"192.0.2.{number}") for number in range(32)]
    await asyncio.sleep(0)
    others = [ask(places, f"10.0.1.{number}", "192.0.2.1") for number in range(100)]
    await asyncio.sleep(0)
    kernel.may.release(2)  # the first is under way when the others come
    await asyncio.gather(*others)
    assert len(kernel.taken) == 2 and sum(each.done() for each in flood) <= 2
    assert all(f"10.0.1.{number} . 192.0.2.1 . 443 timeout 61s" in kernel.taken[1] for number in range(100))
    kernel.may.release(30)
    await asyncio.gather(*flood)


async def test_what_waits_for_a_guest_that_is_forgotten_never_gets_there(kernel: Kernel, places: Resolved) -> None:
    first, second = ask(places, "10.0.0.1", "192.0.2.1"), ask(places, "10.0.0.1", "192.0.2.2")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    forgotten = asyncio.create_task(places.forget("10.0.0.1"))
    with pytest.raises(InternalError, match="not led here"):
        await second
    kernel.may.release(2)
    await asyncio.gather(first, forgotten)
    assert "192.0.2.2" not in kernel.taken[0] and "delete element" in kernel.taken[1]


async def test_what_the_kernel_refuses_one_it_refuses_no_other(kernel: Kernel, places: Resolved) -> None:
    kernel.refuses, bad, good = "10.0.0.1 .", ask(places, "10.0.0.1", "192.0.2.1"), ask(places, "10.0.0.2", "192.0.2.1")
    kernel.may.release(3)
    await good
    with pytest.raises(InternalError, match="no room"):
        await bad
    kernel.refuses = ""
    kernel.may.release(1)
    await ask(places, "10.0.0.1", "192.0.2.1")  # and not taken for there already
    assert "10.0.0.1 . 192.0.2.1" in kernel.taken[-1]


async def test_those_that_resolve_all_they_can_leave_each_other_its_part(
    kernel: Kernel, places: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolved, "MAX_RESOLVED", 2560)
    monkeypatch.setattr(resolved, "MAX_OF_ONE", 400)
    kernel.may.release(1000)
    for guest in range(10):
        many = [(f"192.0.2.{number}", port) for number in range(200) for port in (80, 443)]
        with contextlib.suppress(InternalError):
            for at in range(0, 400, 20):
                await places.add(f"10.0.0.{guest}", many[at : at + 20], 60)
    with pytest.raises(InternalError, match="too many"):
        await places.add("10.0.1.1", many[:11], 60)
    await places.add("10.0.1.1", many[:10], 60)
