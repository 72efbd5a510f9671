"""The addresses that names were resolved to, in the kernel: connections there are led to the fence.

A context of its own, for these come at any moment, and must not wait for a namespace that is just being made. A
transaction takes the kernel 15 to 20 ms, with a hundred places nearly as with one: what comes while one is under way
goes into the next together, one request of each guest, so that nobody waits for another's many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from hutch.errors import InternalError
from hutch.network.firewall import MAX_RESOLVED
from hutch.network.nft import Nft, NftError
from hutch.shares import own_part

MAX_OF_ONE = 4096
"""Places of one sandbox at once."""
_TIDY_SECONDS = 5.0
"""What has timed out is looked for in all no more often."""

Place = tuple[str, int]


@dataclass
class _Request:
    guest: str
    places: list[Place]
    seconds: float
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Resolved:
    """The set `resolved` of one node's table."""

    def __init__(self, node: str) -> None:
        self._set = f"inet hutch_{node} resolved"
        self._nft = Nft()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="resolved")
        self._of: dict[str, dict[Place, float]] = {}
        """By guest: until when each place is there, by the event loop's clock."""
        self._waiting: dict[str, deque[_Request]] = {}
        """By guest: what is not handed to the kernel yet."""
        self._writer: asyncio.Task[None] | None = None
        self._tidied = 0.0

    async def add(self, guest: str, targets: list[Place], seconds: float) -> None:
        """Let them in for so long; one that is there already gets the longer time. Raises `InternalError`."""
        now = asyncio.get_running_loop().time()
        known = self._of.setdefault(guest, {})
        if not self._may(guest, len(targets)):
            self._tidy(now)
            known = self._of[guest] = _current(self._of[guest], now)
        wanted = [place for place in targets if known.get(place, 0.0) < now + seconds]
        if not self._may(guest, len(wanted)):
            raise InternalError(f"{guest} has resolved too many names at once")
        if wanted:
            known.update(dict.fromkeys(wanted, now + seconds))
            request = _Request(guest, wanted, seconds)
            self._waiting.setdefault(guest, deque()).append(request)
            if self._writer is None:
                self._writer = asyncio.create_task(self._write(), name="resolved")
            await request.done

    async def forget(self, guest: str) -> None:
        """Take out all of one guest: its address is the next one's."""
        self._refuse(guest)
        places = self._of.pop(guest, {})
        if places:
            keys = ", ".join(f"{guest} . {address} . {port}" for address, port in places)
            # Some are gone by themselves: added first, so that all can be deleted.
            await self._run(f"add element {self._set} {{ {keys} }}\ndelete element {self._set} {{ {keys} }}")

    async def clear(self) -> None:
        """Take out all."""
        for guest in list(self._waiting):
            self._refuse(guest)
        self._of.clear()
        await self._run(f"flush set {self._set}")

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._nft.close()

    def _may(self, guest: str, more: int) -> bool:
        """Whether it may have so many more. The first half of the set is for whoever comes first; of the other each
        guest has its part, however much the others take."""
        has = len(self._of[guest]) + more
        taken = sum(map(len, self._of.values())) + more
        own = own_part(MAX_RESOLVED, len(self._of))
        return has <= MAX_OF_ONE and (has <= own or taken <= MAX_RESOLVED // 2)

    def _tidy(self, now: float) -> None:
        if now - self._tidied > _TIDY_SECONDS:
            self._tidied = now
            self._of = {guest: _current(places, now) for guest, places in self._of.items()}

    def _refuse(self, guest: str) -> None:
        """What waits for the kernel does not get there: the address may belong to another by then."""
        for request in self._waiting.pop(guest, ()):
            if not request.done.done():
                request.done.set_exception(InternalError(f"{guest} is not led here any more"))

    async def _write(self) -> None:
        """Until nothing waits: transactions, each with the oldest request of every guest."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = [requests.popleft() for requests in self._waiting.values()]
                self._waiting = {guest: requests for guest, requests in self._waiting.items() if requests}
                refused = await loop.run_in_executor(self._thread, self._let_in, batch)
                for request, error in zip(batch, refused, strict=True):
                    self._answer(request, error)
        finally:
            self._writer = None

    def _answer(self, request: _Request, error: str | None) -> None:
        if error is not None:
            known = self._of.get(request.guest, {})
            for place in request.places:
                known.pop(place, None)  # it is not there: the next one tries again
        if request.done.done():
            return
        if error is None:
            request.done.set_result(None)
        else:
            request.done.set_exception(InternalError(f"names cannot be let in: {error}"))

    def _let_in(self, batch: list[_Request]) -> list[str | None]:
        """All together, or where the kernel refuses that, one by one: what each was refused for. In the thread."""
        try:
            self._nft.run("\n".join(map(self._commands, batch)))
            return [None] * len(batch)
        except NftError as error:
            if len(batch) == 1:
                return [str(error)]
        return [self._let_in([request])[0] for request in batch]

    def _commands(self, request: _Request) -> str:
        # An element that is added a second time keeps its first timeout on kernels before 6.12.
        keys = [f"{request.guest} . {address} . {port}" for address, port in request.places]
        plain = ", ".join(keys)
        timed = ", ".join(f"{key} timeout {int(request.seconds) + 1}s" for key in keys)
        return (
            f"add element {self._set} {{ {plain} }}\n"
            f"delete element {self._set} {{ {plain} }}\n"
            f"add element {self._set} {{ {timed} }}"
        )

    async def _run(self, commands: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._nft.run, commands)
        except NftError as error:
            raise InternalError(f"names cannot be let in: {error}") from error


def _current(places: dict[Place, float], now: float) -> dict[Place, float]:
    """Those that have not timed out."""
    return {place: until for place, until in places.items() if until > now}
