"""What the guest does about itself after a thaw."""

from __future__ import annotations

import asyncio
import os
import selectors

from hutch_guest.api.thaw import renew_selector


class Counted(selectors.EpollSelector):
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


def test_an_event_loop_rests_whose_epoll_set_reports_what_is_closed() -> None:
    """What stands in the set of a thawed sandbox now and then: made here with a second descriptor of the same file."""
    selector = Counted()
    loop = asyncio.SelectorEventLoop(selector)
    readable, writable = os.pipe()
    again = os.dup(readable)
    os.write(writable, b"x")
    selector._selector.register(readable, selectors.EVENT_READ)  # type: ignore[attr-defined]
    os.close(readable)

    async def turned() -> int:
        before = selector.turns
        await asyncio.sleep(0.05)
        return selector.turns - before

    async def main() -> None:
        heard = asyncio.Event()
        other, its = os.pipe()
        asyncio.get_running_loop().add_reader(other, heard.set)
        assert await turned() > 20
        renew_selector(asyncio.get_running_loop())
        assert await turned() < 10
        os.write(its, b"x")
        await asyncio.wait_for(heard.wait(), 10)
        asyncio.get_running_loop().remove_reader(other)
        os.close(other)
        os.close(its)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
        os.close(again)
        os.close(writable)
