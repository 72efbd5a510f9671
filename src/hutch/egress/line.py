"""A child's end of its line to the node: see `hutch.egress.child`."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from typing import Any

from hutch.egress.reports import Reports

_ANSWERS = ("bound", "token")
"""What the node says to a question, and what is not answered itself."""
_MAX_WAITING = 1 << 20
"""Bytes of reports that the node has not taken yet."""


class Line(ABC):
    """One line, to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._reports = Reports(lambda entry: self.send(op="report", entry=entry), self._full)
        self._told = asyncio.Event()

    @abstractmethod
    def obey(self, message: dict[str, Any]) -> None:
        """Do as the node says."""

    async def told(self) -> None:
        """Returns when the node has told all that it knew before."""
        await self._told.wait()

    async def serve(self) -> None:
        """Do what the node says, until it says no more."""
        self.send(op="ready")
        while line := await self._reader.readline():
            message = json.loads(line)
            if message["op"] == "told":
                self._told.set()
            else:
                self.obey(message)
            if message["op"] not in _ANSWERS:
                self.send(op="done", n=message["n"])

    def report(self, **entry: Any) -> None:
        """Tell what was let through or not."""
        self._reports.add(entry)

    def send(self, **message: Any) -> None:
        """Without waiting."""
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _full(self) -> bool:
        return self._writer.transport.get_write_buffer_size() > _MAX_WAITING
