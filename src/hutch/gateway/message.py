"""What a call to a guest asks for, read before the call is passed on: the audit log has it. It is the client's word,
and read as the guest will read it; what cannot be read so is refused, so that no form of a call hides what it does."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import struct
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote

from hutch.gateway.exchange import Exchange
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Place
from hutch.http1.framing import Chunked, Framing, Sized
from hutch.http1.heads import Request, length_of, tokens, values
from hutch.model import CODE_PORT, GUEST_PORT

MAX_MESSAGE = 12 << 20
"""Bytes of a message that are taken; as much as the API takes of a body."""
AHEAD = 256 << 10
"""Bytes of a request that are taken before the sandbox's port is open."""
_SECONDS = 60.0
"""For which a message may be on its way."""
_BETWEEN = 1 << 20
"""What may stand between the pieces of a message, in bytes."""
_SERVICES = ("/process.Process/", "/filesystem.Filesystem/")
_INPUT = ("/process.Process/SendInput", "/process.Process/StreamInput")
_CODE = ("/execute", "/contexts")
_READ = {b"content-type", b"authorization", b"content-encoding"}
_ENVELOPED = "application/connect+"
_ENVELOPE = struct.Struct(">BI")
_COMPRESSED, _END = 1, 2


class FirstMessage:
    """Reads the first message of a call's body."""

    def __init__(self, request: Request) -> None:
        self._enveloped = _is_enveloped(request)
        length = length_of(request.fields)
        self.most = MAX_MESSAGE if length is None or length < 0 else min(length, MAX_MESSAGE)
        """Bytes that it may take, at most."""
        self._framing: Framing = _Content() if length == -1 else Sized(length or 0)
        self._content = self._framing.content if isinstance(self._framing, _Content) else bytearray()
        self._taken = 0
        self._message = b""

    def read(self, body: bytearray) -> bool:
        """Whether it is all there, in what there is of the body (each time from its beginning). Raises `BadHead`, and
        `Refusal` when it is too large or none."""
        new = bytes(body[self._taken :])
        taken = self._framing.take(new)
        self._taken += taken
        if isinstance(self._framing, Sized):
            self._content += new[:taken]
        if self._enveloped:
            return self._open()
        if len(self._content) > MAX_MESSAGE:
            raise _too_large()
        self._message = bytes(self._content) if self._framing.done else b""
        return self._framing.done

    def parse(self) -> dict[str, Any]:
        """What it says. Raises `Refusal`."""
        try:
            message = json.loads(self._message or b"{}")
        except (ValueError, RecursionError):
            raise _unreadable("is not JSON") from None
        if not isinstance(message, dict):
            raise _unreadable("is not an object")
        return message

    def _open(self) -> bool:
        while len(self._content) >= _ENVELOPE.size:
            flags, length = _ENVELOPE.unpack_from(self._content)
            if length > MAX_MESSAGE:
                raise _too_large()
            end = _ENVELOPE.size + length
            if len(self._content) < end:
                break
            if flags & _COMPRESSED:
                raise _unreadable("is compressed")
            if not flags & _END:
                self._message = bytes(self._content[_ENVELOPE.size : end])
                return True
            del self._content[:end]
        if self._framing.done and self._content:
            raise _unreadable("has no end")
        return self._framing.done


class _Content(Chunked):
    """Keeps what is in the chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def _content(self, data: bytes, at: int) -> int:
        left = self._left - 2
        end = super()._content(data, at)
        self.content += data[at : min(end, at + max(left, 0))]
        return end


class Room:
    """Bytes that large messages of all connections may take together."""

    def __init__(self, total: int = 64 << 20) -> None:
        self._left = total

    def take(self, size: int, held: ExitStack) -> None:
        """Until `held` is closed. Raises `Refusal` when there is no room."""
        if size > self._left:
            raise Refusal(503, {"code": "unavailable", "message": "too many large messages at once: try again"})
        self._left -= size
        held.callback(self._give, size)

    def _give(self, size: int) -> None:
        self._left += size


class Ahead:
    """Waits for the first message of a call, while the rest of the call waits for it."""

    def __init__(self, reader: FirstMessage, room: Room, held: ExitStack) -> None:
        self._reader = reader
        self._room = room
        self._held = held
        self._more = asyncio.Event()
        self.most = AHEAD
        """Bytes of the body that may be waiting."""

    def more(self) -> None:
        """More of the body has come."""
        self._more.set()

    async def wait(self, body: bytearray) -> dict[str, Any]:
        """What it says. Raises `BadHead` and `Refusal`."""
        try:
            async with asyncio.timeout(_SECONDS):
                while not self._reader.read(body):
                    self._make_room(len(body))
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise Refusal(408, {"code": "deadline_exceeded", "message": "the message does not come"}) from None
        if len(body) <= AHEAD:
            return self._reader.parse()
        return await asyncio.to_thread(self._reader.parse)

    def _make_room(self, come: int) -> None:
        if come <= AHEAD or come <= self.most - _BETWEEN:
            return
        if self.most > AHEAD:
            raise _too_large()
        self._room.take(self._reader.most, self._held)
        self.most = self._reader.most + _BETWEEN


def message_of(exchange: Exchange) -> FirstMessage | None:
    """The reader for a call whose message is recorded; None for all others. Raises `Refusal`."""
    request, place = exchange.request, exchange.place
    if not isinstance(place, Place) or request.method != b"POST":
        return None
    path = request.path.decode("latin-1")
    told = (path.startswith(_SERVICES) and path not in _INPUT) or path == "/files/compose"
    if place.port == CODE_PORT:
        told = unquote(path).startswith(_CODE)
    elif place.port != GUEST_PORT:
        told = False
    return FirstMessage(request) if told else None


def is_input(exchange: Exchange) -> bool:
    """Whether it is input of a process that runs: a stream of it, or a piece."""
    return exchange.to_guest and exchange.request.path.decode("latin-1") in _INPUT


def user_of(request: Request) -> str:
    """Whom a call to the guest is to be carried out as; empty: as the default. The guest reads it in the same way."""
    kind, _, value = (request.get(b"authorization") or b"").decode("latin-1").partition(" ")
    if kind.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0][:64]
    except (binascii.Error, ValueError):
        return ""


def _is_enveloped(request: Request) -> bool:
    if tokens(request.fields, b"connection") & _READ:
        raise Refusal(400, "Connection names fields that say how the call is to be read")  # they would not be passed on
    types = [each.decode("latin-1") for each in values(request.fields, b"content-type")]
    if len(types) > 1 or len(values(request.fields, b"authorization")) > 1:
        raise Refusal(400, "a call has one Content-Type and one Authorization")
    found = types[0] if types else ""
    if found.lower().startswith(_ENVELOPED) and not found.startswith(_ENVELOPED):
        raise Refusal(400, f"the Content-Type is written in small letters, not as {found[:64]!r}")
    return found.startswith(_ENVELOPED)


def _unreadable(why: str) -> Refusal:
    return Refusal(400, {"code": "invalid_argument", "message": f"the message {why}"})


def _too_large() -> Refusal:
    most = MAX_MESSAGE >> 20
    return Refusal(
        413, {"code": "resource_exhausted", "message": f"the message has more than {most} MiB: write a file"}
    )
