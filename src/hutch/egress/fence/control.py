"""The fence's end of its line to the node: one JSON object a line, over a socket that both have from the start.

Node to fence: `set {n, sandbox, address, rules}`, `forget {n, address}`, `drop {n, address}`, and `told {n}` after all
that was known before, each answered by `done {n}`; `bound {n, ok}` answers `bind`. Fence to node: `ready`, `done`,
`bind {n, address, targets, seconds}`, and `report {entry}`, which is dropped when the node is slow.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from hutch.egress.fence.guarded import Wall
from hutch.model import NetworkRules

MAX_LINE = 1 << 20
_MAX_WAITING = 1 << 20
"""Bytes of reports that the node has not taken yet."""
_BIND_SECONDS = 2.0


class Control:
    """One line, to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count()
        self._binding: dict[int, asyncio.Future[bool]] = {}
        self._dropped = 0
        self._told = asyncio.Event()

    async def told(self) -> None:
        """Returns when the node has told all that it knew before."""
        await self._told.wait()

    async def serve(self, wall: Wall) -> None:
        """Do what the node says, until it says no more."""
        self._send(op="ready")
        while line := await self._reader.readline():
            message = json.loads(line)
            self._obey(wall, message)

    async def bind(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> bool:
        """Have the kernel lead connections of this guest to these places here; whether it does."""
        number = next(self._numbers)
        bound: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._binding[number] = bound
        self._send(op="bind", n=number, address=guest, targets=targets, seconds=seconds)
        try:
            async with asyncio.timeout(_BIND_SECONDS):
                return await bound
        except TimeoutError:
            return False
        finally:
            del self._binding[number]

    def report(self, **entry: Any) -> None:
        """Tell what was let through or not."""
        if self._writer.transport.get_write_buffer_size() > _MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            entry["dropped"], self._dropped = self._dropped, 0
        self._send(op="report", entry=entry)

    def _obey(self, wall: Wall, message: dict[str, Any]) -> None:
        match message["op"]:
            case "set":
                rules = NetworkRules.model_validate(message["rules"])
                wall.put(message["sandbox"], message["address"], rules)
            case "forget":
                wall.forget(message["address"])
            case "drop":
                if (guarded := wall.find(message["address"])) is not None:
                    guarded.drop()
            case "told":
                self._told.set()
            case "bound":
                future = self._binding.get(message["n"])
                if future is not None and not future.done():
                    future.set_result(message["ok"])
                return
        self._send(op="done", n=message["n"])

    def _send(self, **message: Any) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
