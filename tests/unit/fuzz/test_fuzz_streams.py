"""Streams that come in pieces: Connect's envelopes in the guest, frames of its output, events and figures of model
providers, and the language of network policies."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

from hypothesis import strategies as st

from hutch.egress.llm.arrays import ArrayReader
from hutch.egress.llm.hiding import UsageHider
from hutch.egress.llm.readers import AnthropicReader, GoogleReader, OpenAiReader
from hutch.egress.llm.sse import SseReader
from hutch.egress.llm.usage import UsageReader
from hutch.errors import GuestUnavailable, InvalidPolicy
from hutch.fleet.frames import FrameParser
from hutch.model.rules import CLOSED, PRIVATE, AddressRule, NameRule, parse_rule
from hutch_guest.envd.connect import read_envelopes
from hutch_guest.errors import GuestError
from tests.unit.fuzz.mutants import cuts, fuzzed, mutants


class Pieces:
    """A request's body."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def enveloped(message: bytes, flags: int = 0) -> bytes:
    return struct.pack(">BI", flags, len(message)) + message


ENVELOPES = [
    enveloped(b'{"a": 1}') + enveloped(b"") + enveloped(b"{}", 2),
    enveloped(b'{"process": {"cmd": "ls", "args": ["-l"]}}'),
    enveloped(b"[1]") + enveloped(b"{", 1),
]


def by_hand(data: bytes, limit: int) -> list[Any] | None:
    """The messages, read the slow way; None where the stream is wrong somewhere."""
    found = []
    while data:
        if len(data) < 5:
            return None
        flags, length = struct.unpack(">BI", data[:5])
        if length > limit or len(data) < 5 + length or flags & 1:
            return None
        if not flags & 2:
            try:
                message = json.loads(data[5 : 5 + length] or b"{}")
            except (ValueError, RecursionError):
                return None
            if not isinstance(message, dict):
                return None
            found.append(message)
        data = data[5 + length :]
    return found


@fuzzed(
    data=mutants(ENVELOPES, [b"\0", b"\x01", b"\x02", b"\xff\xff\xff\xff", b"{}", b'"', b"[", b"\0\0\0\0\0"]),
    draw=st.data(),
)
def test_envelopes(data: bytes, draw: st.DataObject) -> None:
    async def gathered() -> list[Any] | None:
        try:
            return [message async for message in read_envelopes(Pieces(draw.draw(cuts(data))), 1000)]  # type: ignore[arg-type]
        except GuestError:
            return None

    assert asyncio.run(gathered()) == by_hand(data, 1000)


FRAMES = [
    struct.pack("!BQI", 1, 5, 5) + b"hello" + struct.pack("!BQI", 6, 9, 4) + b"{} x",
    struct.pack("!BQI", 0, 0, 0),
]


@fuzzed(data=mutants(FRAMES, [b"\0", b"\xff", b"\x07", b"\0" * 8, b"\xff" * 8]), draw=st.data())
def test_frames(data: bytes, draw: st.DataObject) -> None:
    def read(pieces: list[bytes]) -> list[Any]:
        parser, found = FrameParser(), []
        try:
            for piece in pieces:
                found += parser.feed(piece)
                assert len(parser._buffer) <= (256 << 10) + 13
        except GuestUnavailable:
            found.append(None)
        return found

    whole, cut = read([data]), read(draw.draw(cuts(data)))
    assert cut == whole or (whole == [None] and cut[-1] is None), "frames before a broken one may have been given"


SSE = [
    b"event: message_start\ndata: "
    b'{"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 9}}}\n\n',
    b'data: {"type": "message_delta", "usage": {"output_tokens": 12, "iterations": [{"type": "compaction"}]}}\r\n\r\n',
    b'data: {"choices": [{"delta": {"content": "hi"}}], "usage": null}\n\ndata: [DONE]\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}}\n\n',
    b'data: {"type": "response.completed", '
    b'"response": {"model": "m", "usage": {"input_tokens": 5, "output_tokens": 6}}}\n\n',
    b'data: {"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": {"promptTokenCount": 4}}\n\n',
    b'[{"candidates": [{"finishReason": "STOP"}], '
    b'"usageMetadata": {"promptTokenCount": 4, "totalTokenCount": 9}}\n,\n{"a": "}\\""}]',
]
WORDS = [
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b":",
        b"data:",
        b"data: {",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\\",
        b"null",
        b"-1",
        b"1e999",
    ),
    *(
        b"99999999999999999999",
        b'"usage": []',
        b'"usage": {"input_tokens": {}}',
        b'"delta": 3',
        b'"choices": {"a": 1}',
        b"true",
    ),
    *(b'"message": null', b'"candidates": 7', b'"parts": [null]', b"\xff\xfe", b"\0", b'"error": {}', b'"type": ["x"]'),
]


def events_by_hand(text: bytes) -> list[bytes]:
    """As the HTML standard says, read whole."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    found: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if not line:
            found += [b"\n".join(data)] if any(data) else []
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return found


@fuzzed(data=mutants(SSE, WORDS), draw=st.data())
def test_events(data: bytes, draw: st.DataObject) -> None:
    reader = SseReader()
    found = [event for piece in draw.draw(cuts(data)) for event, _ in reader.feed(piece)]
    assert [event.strip(b"\n") for event in found] == [event.strip(b"\n") for event in events_by_hand(data)]


@fuzzed(data=mutants(SSE, WORDS, changes=8), draw=st.data())
def test_figures_of_providers_never_fail_and_are_never_below_nothing(data: bytes, draw: st.DataObject) -> None:
    pieces = draw.draw(cuts(data))
    for kind in (AnthropicReader, OpenAiReader, GoogleReader):
        whole, cut, array = kind(), kind(), kind()
        readers: list[UsageReader] = [whole, cut, array]
        whole.feed(data)
        for piece in pieces:
            cut.feed(piece)
            array.feed_array(piece)
        assert whole.tokens == cut.tokens and whole.model == cut.model
        whole.read(data)
        for reader in readers:
            used = reader.tokens
            counts = (used.input, used.output, used.cache_read, used.cache_write, used.reasoning, used.searches)
            assert min(*counts, used.audio_input, used.audio_output) >= 0
            assert used.cache_write_1h <= used.cache_write and used.audio_input <= used.input


@fuzzed(data=mutants(SSE, WORDS), draw=st.data())
def test_an_array_is_read_alike_however_it_is_cut(data: bytes, draw: st.DataObject) -> None:
    whole, cut = ArrayReader(), ArrayReader()
    found = [each for piece in draw.draw(cuts(data)) for each in cut.feed(piece)]
    assert found == whole.feed(data)


@fuzzed(data=mutants(SSE, WORDS), draw=st.data())
def test_hiding_usage_loses_no_event_with_a_choice(data: bytes, draw: st.DataObject) -> None:
    def shown(pieces: list[bytes]) -> bytes:
        hider = UsageHider()
        return b"".join([*(hider.feed(piece) for piece in pieces), hider.end()])

    whole = shown([data])
    assert shown(draw.draw(cuts(data))) == whole
    assert whole.count(b'"content"') == data.count(b'"content"')


RULES = [
    b"tcp://203.0.113.0/24:22,8000-8100",
    b"*.example.com:8443",
    b"pypi.org",
    b"udp://198.51.100.7:53",
    b"xn--a.b:1",
]


@fuzzed(
    data=mutants(
        RULES,
        [
            b":",
            b"//",
            b"*",
            b".",
            b"-",
            b",",
            b"/0",
            b"0x7f",
            b"::1",
            b" ",
            b"\xc3\xa9",
            b"10.",
            b"169.254.169.254",
            b"65536",
        ],
    )
)
def test_rules_are_canonical_or_refused(data: bytes) -> None:
    try:
        rule = parse_rule(data.decode("utf-8", "replace"))
    except InvalidPolicy:
        return
    assert parse_rule(rule.text) == rule
    if isinstance(rule, AddressRule):
        for closed in CLOSED:
            assert not rule.network.overlaps(closed) or (closed in PRIVATE and rule.network.subnet_of(closed))
    else:
        assert isinstance(rule, NameRule) and "." in rule.name and not rule.covers("") and rule.ports
