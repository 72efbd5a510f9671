"""What a call to a guest asks for is read as the guest reads it, however it comes, and in bounds."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import ExitStack
from typing import Any

import pytest

from hutch.control.audit import guest_call
from hutch.control.ports import Door
from hutch.gateway import message
from hutch.gateway.exchange import exchange_of
from hutch.gateway.message import AHEAD, MAX_MESSAGE, Ahead, FirstMessage, Room, is_input, message_of, user_of
from hutch.gateway.refusals import Refusal
from hutch.gateway.routing import Place
from hutch.http1.heads import Request
from hutch.model import CODE_PORT, GUEST_PORT
from hutch_guest.envd import connect
from hutch_guest.envd.process import parse_start

ID = "sbx_" + "a" * 22
DOOR = Door(ID, "org", True, True, True, True, None, "t", "t")
START = {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "make test"], "envs": {"KEY": "hidden"}}, "tag": "t"}
ENVELOPED = (b"Content-Type", b"application/connect+json")
JSON = (b"Content-Type", b"application/json")


def enveloped(said: object, flags: int = 0) -> bytes:
    raw = json.dumps(said).encode()
    return struct.pack(">BI", flags, len(raw)) + raw


def call(body: bytes, *fields: tuple[bytes, bytes], path: bytes = b"/process.Process/Start", chunks: int = 0) -> Any:
    """A reader for this call, and its body on the wire."""
    if chunks:
        pieces = [body[at : at + chunks] for at in range(0, len(body), chunks)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"
        length = (b"Transfer-Encoding", b"chunked")
    else:
        length = (b"Content-Length", b"%d" % len(body))
    exchange = exchange_of(Request(b"POST", path, 1, [*fields, length]))
    exchange.place = Place(ID, CODE_PORT if path.startswith((b"/exec", b"/%65")) else GUEST_PORT)
    return message_of(exchange), bytearray(body)


def said(reader: FirstMessage, body: bytearray) -> dict[str, Any]:
    assert reader.read(body)
    return reader.parse()


@pytest.mark.parametrize("chunks", [0, 1, 7, 1000])
@pytest.mark.parametrize("kind", [ENVELOPED, JSON])
@pytest.mark.parametrize("step", [1, 1000])
async def test_it_is_there_as_soon_as_it_has_come_and_no_sooner(
    chunks: int, kind: tuple[bytes, bytes], step: int
) -> None:
    body = enveloped(START) if kind is ENVELOPED else json.dumps(START).encode()
    reader, wire = call(body, kind, chunks=chunks)
    come, found = bytearray(), []
    for at in range(0, len(wire), step):
        come += wire[at : at + step]
        found.append(reader.read(come))
        if found[-1]:
            break
    assert found.index(True) == len(found) - 1 and reader.parse() == START


def test_what_the_guest_passes_over_is_passed_over() -> None:
    other = {"process": {"cmd": "true"}}
    body = enveloped(other, flags=2) + enveloped(START) + enveloped(other)
    assert said(*call(body, ENVELOPED)) == START
    reader, wire = call(b'{"process":{"cmd":"true"},"process":{"cmd":"evil"}}', JSON)
    message = said(reader, wire)
    assert parse_start(message).argv == ["evil"] and parse_start(connect._message(bytes(wire))).argv == ["evil"]
    assert said(*call(b"", JSON)) == {}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (enveloped(START, flags=1), [ENVELOPED]),
        (enveloped(START)[:-1], [ENVELOPED]),
        (json.dumps(START).encode()[:-1], [JSON]),
        (b"[1]", [JSON]),
        (b"[" * 100_000, [JSON]),
        (struct.pack(">BI", 0, MAX_MESSAGE + 1), [ENVELOPED]),
        (enveloped(START), [ENVELOPED, JSON]),
        (enveloped(START), [(b"Content-Type", b"Application/Connect+json")]),
        (enveloped(START), [ENVELOPED, (b"Connection", b"content-type")]),
        (json.dumps(START).encode(), [JSON, (b"Authorization", b"Basic cm9vdDo="), (b"Authorization", b"Basic YTo=")]),
    ],
    ids=["compressed", "cut", "half", "list", "deep", "large", "two types", "letters", "not passed on", "two users"],
)
def test_what_cannot_be_read_as_the_guest_reads_it_is_refused(body: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refusal):
        said(*call(body, *fields))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (b"/filesystem.Filesystem/Remove", True),
        (b"/files/compose", True),
        (b"/process.Process/SendInput", False),
        (b"/process.Process/%53endInput", True),
        (b"/files?path=/x", False),
        (b"/execute", True),
        (b"/%65xecute", True),
    ],
)
def test_calls_that_say_in_their_body_what_they_do_are_read(path: bytes, told: bool) -> None:
    reader, _ = call(b"{}", JSON, path=path)
    assert (reader is not None) is told


def test_the_log_has_the_command_and_its_user_and_not_its_environment() -> None:
    request = Request(b"POST", b"/process.Process/Start", 1, [(b"Authorization", b"Basic cm9vdDo=")])
    event = guest_call("org", ID, "POST", "/process.Process/Start", user_of(request), START)
    assert event is not None and event.by.actor == f"token:{ID}"
    process = {"cmd": "/bin/bash", "args": ["-l", "-c", "make test"]}
    assert event.detail == {
        **{"method": "POST", "path": "/process.Process/Start"},
        **{"user": "root", "body": {"process": process}},
    }


async def test_a_large_message_needs_room_and_gives_it_back() -> None:
    room, held = Room(total=AHEAD * 3), ExitStack()
    body = json.dumps({"code": "x" * AHEAD * 2}).encode()
    reader, wire = call(body, JSON, path=b"/execute")
    come = bytearray(wire[: AHEAD + 1])
    ahead = Ahead(reader, room, held)
    waiting = asyncio.create_task(ahead.wait(come))
    await asyncio.sleep(0)
    assert ahead.most > len(body) and not waiting.done()
    with pytest.raises(Refusal, match="503"):
        await Ahead(call(body, JSON, path=b"/execute")[0], room, ExitStack()).wait(bytearray(come))
    come += wire[AHEAD + 1 :]
    ahead.more()
    assert len((await waiting)["code"]) == AHEAD * 2
    held.close()
    assert room._left == AHEAD * 3


async def test_a_message_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "_SECONDS", 0.01)
    reader, wire = call(enveloped(START), ENVELOPED)
    with pytest.raises(Refusal, match="408"):
        await Ahead(reader, Room(), ExitStack()).wait(wire[:-1])


@pytest.mark.parametrize(("port", "yes"), [(GUEST_PORT, True), (8080, False)])
def test_input_is_told_from_other_calls(port: int, yes: bool) -> None:
    exchange = exchange_of(Request(b"POST", b"/process.Process/SendInput", 1, []))
    exchange.place = Place(ID, port)
    assert is_input(exchange) is yes
