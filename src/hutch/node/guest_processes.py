"""The node's own processes in a sandbox, through its guest."""

from __future__ import annotations

import struct

from pydantic import ConfigDict, Field, ValidationError

from hutch.errors import GuestUnavailable
from hutch.model import Model
from hutch.node.guest import GuestClient

_HEAD = struct.Struct(">BQI")
_OUTPUT = (1, 2, 3)
"""Kinds of frames that hold output."""
_SPOOL = 256 << 10
_MOST_OUTPUT = 1 << 20
_LONGEST_RUN = 4.0
_TAIL = 2000
"""Characters of output that an error shows."""


class ProcessState(Model):
    """What the guest says of one."""

    model_config = ConfigDict(extra="ignore")

    running: bool
    exit_code: int | None = None
    signal: str | None = Field(None, max_length=32)


class GuestProcesses:
    """All raise `GuestUnavailable`."""

    def __init__(self, guests: GuestClient, address: str, token: str) -> None:
        self._guests = guests
        self._address = address
        self._token = token

    async def start(self, id: str, command: str, timeout: float | None = None) -> None:
        """Run a shell command as the template's user; it goes on by itself. `timeout`: seconds until it is killed."""
        body = {"id": id, "shell": command, "stdin": "none", "retain": "tail", "max_spool": _SPOOL, "timeout": timeout}
        await self._guests.call("POST", self._address, "/hutch/processes", token=self._token, body=body)

    async def run(self, argv: list[str]) -> None:
        """Run a program as the template's user to its end, in one call, and forget it."""
        id = "rehearsal"
        body = {"id": id, "argv": argv, "stdin": "none", "retain": "tail", "max_spool": _SPOOL, "timeout": _LONGEST_RUN}
        await self._guests.call("POST", self._address, "/hutch/processes?follow=1", token=self._token, body=body)
        await self.forget(id)

    async def state(self, id: str) -> ProcessState:
        """How it is."""
        answer = await self._guests.call("GET", self._address, f"/hutch/processes/{id}", token=self._token)
        try:
            return ProcessState.model_validate_json(answer)
        except ValidationError as error:
            raise GuestUnavailable(f"the guest's answer about process {id} is none") from error

    async def forget(self, id: str) -> None:
        """Kill it, if it runs, and forget it."""
        await self._guests.call("DELETE", self._address, f"/hutch/processes/{id}", token=self._token)

    async def tail(self, id: str) -> str:
        """The last of what it has printed."""
        path = f"/hutch/processes/{id}/output?from=0"
        answer = await self._guests.call("GET", self._address, path, token=self._token, limit=_MOST_OUTPUT)
        return printed(answer)[-_TAIL:]


def printed(stream: bytes) -> str:
    """The text in a stream of frames, which may be cut off anywhere."""
    text, at = bytearray(), 0
    while at + _HEAD.size <= len(stream):
        kind, _, length = _HEAD.unpack_from(stream, at)
        at += _HEAD.size
        if kind in _OUTPUT:
            text += stream[at : at + length]
        at += length
    clean = "".join(c for c in text.decode(errors="replace") if c.isprintable() or c in "\n\t")
    return clean.strip()
