"""The fence's end of its line to the node.

Node to fence: `set {n, sandbox, address, rules}`, `forget {n, address}`, `drop {n, address}`; `bound {n, ok}` answers
`bind`. Fence to node: `bind {n, address, targets, seconds}`.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hutch.egress.fence.guarded import Wall
from hutch.egress.line import Line
from hutch.model.grant import BrokeredRules

_BIND_SECONDS = 2.0


class Control(Line):
    """One line, to its end."""

    wall: Wall
    """Whom it is about: set before it is served."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__(reader, writer)
        self._numbers = itertools.count()
        self._binding: dict[int, asyncio.Future[bool]] = {}

    async def bind(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> bool:
        """Have the kernel lead connections of this guest to these places here; whether it does."""
        number = next(self._numbers)
        bound: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._binding[number] = bound
        self.send(op="bind", n=number, address=guest, targets=targets, seconds=seconds)
        try:
            async with asyncio.timeout(_BIND_SECONDS):
                return await bound
        except TimeoutError:
            return False
        finally:
            del self._binding[number]

    def obey(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "set":
                rules = BrokeredRules.model_validate(message["rules"])
                self.wall.put(message["sandbox"], message["address"], rules)
            case "forget":
                self.wall.forget(message["address"])
            case "drop":
                if (guarded := self.wall.find(message["address"])) is not None:
                    guarded.drop()
            case "bound":
                future = self._binding.get(message["n"])
                if future is not None and not future.done():
                    future.set_result(message["ok"])
