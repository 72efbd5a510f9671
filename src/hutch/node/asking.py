"""Where questions of sandboxes for identity tokens wait for the server, which signs them.

Which sandbox asks is told by its address alone, and its slot is looked at again before the answer is handed over: an
address that was given to another sandbox meanwhile gets nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from hutch.egress.llm.refused import Refused
from hutch.model import IdentityAnswer, IdentityRequest
from hutch.node.entry import Entry, Registry

PATIENCE = 10.0
"""Seconds for which a question waits: a restart of the server fits in."""
AT_ONCE = 8
"""Questions of one sandbox that wait."""
BURST, PER_SECOND = 30.0, 2.0
_AGAIN = 3.0
"""Seconds after which a question that was handed to a server is handed out again: that one may be dead."""
_PAGE = 64


@dataclass
class _Question:
    request: IdentityRequest
    answer: asyncio.Future[IdentityAnswer]
    handed_out: float = -_AGAIN


@dataclass
class _Allowance:
    left: float = BURST
    at: float = field(default_factory=time.monotonic)
    waiting: int = 0

    def take(self) -> bool:
        now = time.monotonic()
        self.left, self.at = min(BURST, self.left + (now - self.at) * PER_SECOND), now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Desk:
    """Of one node."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._questions: dict[str, _Question] = {}
        self._allowances: WeakKeyDictionary[Entry, _Allowance] = WeakKeyDictionary()
        self._news = asyncio.Event()
        self._closed = False

    async def ask(self, address: str, audience: str) -> IdentityAnswer:
        """A token for the sandbox at this address. Raises `Refused`."""
        entry = self._at(address)
        allowance = self._allowances.setdefault(entry, _Allowance())
        if allowance.waiting >= AT_ONCE or not allowance.take():
            raise Refused(429, "This sandbox asks too often: keep a token for as long as it holds.")
        allowance.waiting += 1
        try:
            answer = await self._answered(entry, audience)
        finally:
            allowance.waiting -= 1
        if self._at(address) is not entry:
            raise Refused(403, "This address belongs to another sandbox by now.")
        if answer.token is None:
            raise Refused(403, f"There is no token: {answer.refused}.")
        return answer

    async def ask_for(self, sandbox: str, audience: str) -> IdentityAnswer:
        """The same for one that is known by its id. Raises `Refused`."""
        entry = self._registry.find(sandbox)
        if entry is None:
            raise Refused(403, "This is no sandbox of the node.")
        return await self.ask(entry.record.address, audience)

    async def take(self, wait: float) -> list[IdentityRequest]:
        """Questions that nobody answers just now; waits so many seconds for one."""
        end = time.monotonic() + wait
        while True:
            self._news.clear()
            now = time.monotonic()
            open_ = [each for each in self._questions.values() if now - each.handed_out >= _AGAIN][:_PAGE]
            for each in open_:
                each.handed_out = now
            if open_ or now >= end or self._closed:
                return [each.request for each in open_]
            again = [each.handed_out + _AGAIN for each in self._questions.values()]
            try:
                async with asyncio.timeout(max(0.01, min([end, *again]) - now)):
                    await self._news.wait()
            except TimeoutError:
                continue

    def wake(self) -> None:
        """Send home all who wait for questions (the daemon stops)."""
        self._closed = True
        self._news.set()

    def answer(self, answer: IdentityAnswer) -> None:
        """Of a question that waits; one that does not any more is let be."""
        question = self._questions.get(answer.id)
        if question is not None and not question.answer.done():
            question.answer.set_result(answer)

    async def _answered(self, entry: Entry, audience: str) -> IdentityAnswer:
        request = IdentityRequest(
            id=secrets.token_hex(16), sandbox=entry.id, image=entry.record.image, audience=audience
        )
        future: asyncio.Future[IdentityAnswer] = asyncio.get_running_loop().create_future()
        self._questions[request.id] = _Question(request, future)
        self._news.set()
        try:
            async with asyncio.timeout(PATIENCE):
                return await future
        except TimeoutError:
            raise Refused(503, "Hutch's server does not answer. Ask again in a moment.") from None
        finally:
            del self._questions[request.id]

    def _at(self, address: str) -> Entry:
        entry = self._registry.at(address)
        if entry is None or not entry.running:
            raise Refused(403, "This address belongs to no sandbox that runs.")
        return entry
