"""The code interpreter of one sandbox: a program in it, and a stranger's as all of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from hutch.errors import GuestUnavailable, PortClosed
from hutch.fleet.transport import Answer, GuestTransport
from hutch.model import CODE_PORT, CodeContext, CodeFrame, CodeRequest, CreateCodeContext

_MAX_LINE = 24 << 20
_MAX_JSON = 1 << 20
MAX_VALUES = 1 << 19
"""Values in one line. Each is some hundred bytes here, however short it is; reading it holds up the loop."""
_FEW = 4096
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)
_SILENCE = 60.0
"""It sends a keepalive every 5 seconds."""
_START = 90.0
"""Seconds that a new kernel may take."""


class GuestCode:
    """`GuestClient.code`. Raises `PortClosed` where the sandbox has no code interpreter."""

    def __init__(self, transport: GuestTransport, sandbox_id: str) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id

    async def run(self, request: CodeRequest) -> AsyncGenerator[CodeFrame, None]:
        """Have it run; the frames as they come, once it has been taken. Whoever closes them early interrupts it."""
        body = request.model_dump(include={"code", "language", "timeout"})
        body |= {"context_id": request.context, "env_vars": request.env}
        return _frames(await self._open("POST", "/execute", body, _SILENCE))

    async def contexts(self) -> list[CodeContext]:
        """Those that there are."""
        found = await self._json("GET", "/contexts")
        if not isinstance(found, list):
            raise _nonsense()
        return [_context(each) for each in found]

    async def create_context(self, request: CreateCodeContext) -> CodeContext:
        """Another one."""
        return _context(await self._json("POST", "/contexts", request.model_dump(exclude_none=True)))

    async def restart_context(self, id: str) -> None:
        """A fresh kernel for it. `NotFound`."""
        await self._json("POST", f"/contexts/{quote(id, safe='')}/restart")

    async def remove_context(self, id: str) -> None:
        """End its kernel. `NotFound`."""
        await self._json("DELETE", f"/contexts/{quote(id, safe='')}")

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self._open(method, path, body, _START)
        return _load(await answer.body(_MAX_JSON))

    async def _open(self, method: str, path: str, body: dict[str, Any] | None, read_timeout: float) -> Answer:
        with _explained(self._sandbox_id):
            return await self._transport.open(
                self._sandbox_id,
                "",
                method,
                path,
                port=CODE_PORT,
                headers={"Content-Type": "application/json"},
                body=None if body is None else json.dumps(body).encode(),
                read_timeout=read_timeout,
            )


@contextmanager
def _explained(sandbox_id: str) -> Iterator[None]:
    try:
        yield
    except PortClosed as error:
        raise PortClosed(
            f"{sandbox_id} has no code interpreter", hint="Make the sandbox from the template `code-interpreter`."
        ) from error


async def _frames(answer: Answer) -> AsyncGenerator[CodeFrame, None]:
    async with aclosing(answer.chunks()) as chunks:
        rest = bytearray()
        skipping = False
        async for chunk in chunks:
            *lines, tail = chunk.split(b"\n")
            for line in lines:
                rest += line
                if not skipping:
                    yield (frame := _frame(bytes(rest)))
                    if frame.type == "end":
                        return
                rest.clear()
                skipping = False
            rest += tail
            if len(rest) > _MAX_LINE:
                if not skipping:
                    yield CodeFrame(type="gap", text=f"something of more than {_MAX_LINE >> 20} MiB")
                rest.clear()
                skipping = True
    raise GuestUnavailable("the sandbox's code interpreter hung up")


def values(line: bytes) -> int:
    """How many values the JSON has, about; it is not read for that, and not counted much further than `MAX_VALUES`."""
    about = sum(map(line.count, (b"[", b"{", b",")))
    if about <= _FEW:
        return about
    return sum(1 for _ in islice(_TOKEN.finditer(line), MAX_VALUES + 1))  # not those in texts


def _frame(line: bytes) -> CodeFrame:
    if values(line) > MAX_VALUES:
        return CodeFrame(type="gap", text=f"something of more than {MAX_VALUES} values")
    found = _load(line)
    try:
        kind = found.pop("type")
        match kind:
            case "stdout" | "stderr":
                return CodeFrame(type=kind, text=found["text"])
            case "result":
                found["main"] = found.pop("is_main_result", False)
                return CodeFrame.model_validate({"type": "result", "result": found})
            case "error":
                return CodeFrame.model_validate({"type": "error", "error": found})
            case "number_of_executions":
                return CodeFrame(type="count", count=found["execution_count"])
            case "end_of_execution":
                return CodeFrame(type="end")
        return CodeFrame(type="keepalive")
    except (ValidationError, AttributeError, KeyError, TypeError) as error:
        raise _nonsense() from error


def _context(found: Any) -> CodeContext:
    try:
        return CodeContext.model_validate(found)
    except ValidationError as error:
        raise _nonsense() from error


def _load(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _nonsense() from error


def _nonsense() -> GuestUnavailable:
    return GuestUnavailable("the sandbox's code interpreter answered nonsense")
