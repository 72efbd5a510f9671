"""What the providers' answers say of usage, as their documentation shows them."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.egress.google_model import answers

from hutch.egress.llm.arrays import ArrayReader
from hutch.egress.llm.hiding import UsageHider
from hutch.egress.llm.prices import PriceTable, Tokens
from hutch.egress.llm.readers import AnthropicReader, GoogleReader, OpenAiReader
from hutch.egress.llm.usage import UsageReader

GOOGLE = Tokens(input=2007, output=100, cache_read=1000, reasoning=60, audio_input=100)
TEXTS = ['He said "hi {", ', "and } [ \\ went", " on."]


def sse(*events: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(each % (len(stream) + 1) for each in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def read(reader: UsageReader, answer: dict[str, Any]) -> Tokens:
    reader.read(json.dumps(answer).encode())
    return reader.tokens


CUTS = st.lists(st.integers(0, 10**6), max_size=30)


@given(cuts=CUTS, indent=st.sampled_from([None, 2]), comma=st.sampled_from([",", ",\r\n", "\n,\n"]))
def test_googles_array_is_read_however_it_is_cut(cuts: list[int], indent: int | None, comma: str) -> None:
    events = answers("gemini-2.5-pro", TEXTS)
    stream = ("[" + comma.join(json.dumps(event, indent=indent) for event in events) + "]").encode()
    reader, elements = GoogleReader(), ArrayReader()
    found = []
    for piece in cut(stream, cuts):
        reader.feed_array(piece)
        found += elements.feed(piece)
    assert [json.loads(data) for data, _ in found] == events
    assert (reader.tokens, reader.model, reader.told, reader.finished) == (GOOGLE, "gemini-2.5-pro", True, True)


@given(cuts=CUTS)
def test_googles_events_are_read_however_they_are_cut(cuts: list[int]) -> None:
    reader = GoogleReader()
    for piece in cut(sse(*answers("gemini-2.5-pro", TEXTS)), cuts):
        reader.feed(piece)
    assert (reader.tokens, reader.finished) == (GOOGLE, True)


def test_googles_output_is_estimated_until_it_is_told() -> None:
    reader = GoogleReader()
    reader.feed(sse(*answers("gemini-2.5-pro", ["word " * 400, "."])[:1]))
    assert (reader.told, reader.finished, reader.tokens) == (False, False, Tokens(output=500))
    # the prompt may be told before the output, which is not nothing for that
    reader.feed(sse({"usageMetadata": {"promptTokenCount": 12, "totalTokenCount": 12}}))
    assert reader.told and reader.tokens == Tokens(input=12, output=500)


def test_googles_picture_of_many_megabytes_still_tells_usage() -> None:
    reader = GoogleReader()
    (event,) = answers("gemini-2.5-pro", ["x"])
    event["candidates"][0]["content"]["parts"] = [{"inlineData": {"data": "A" * (3 << 20)}}]
    stream = b"[" + json.dumps(event).encode() + b"]"
    for at in range(0, len(stream), 50_000):
        reader.feed_array(stream[at : at + 50_000])
    assert (reader.tokens, reader.model) == (GOOGLE, "gemini-2.5-pro")


def test_a_broken_off_array_ends_with_an_error_between_two_events_only() -> None:
    first, second = (json.dumps(event).encode() for event in answers("m", ["a", "b"]))
    for begin in (b"", b"[" + first, b"[" + first + b","):
        reader = GoogleReader()
        reader.feed_array(begin)
        whole = json.loads(begin.rstrip(b",") + reader.error_element("over"))
        assert whole[-1]["error"]["message"] == "over"
    reader = GoogleReader()
    reader.feed_array(b"[" + first + b"," + second[:20])
    assert reader.error_element("over") == b""


def test_anthropics_cache_has_tiers_and_the_last_figures_are_those_of_all() -> None:
    reader = AnthropicReader()
    start = {
        "input_tokens": 10,
        "cache_read_input_tokens": 200,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 3,
    }
    reader.feed(sse({"type": "message_start", "message": {"model": "claude-opus-5", "usage": start}}))
    # cumulative, and more than one of them where tools of the provider run in between
    reader.feed(sse({"type": "message_delta", "usage": {"output_tokens": 40}}))
    reader.feed(sse({"type": "message_delta", "usage": {"output_tokens": 90, "input_tokens": 15}}))
    expected = Tokens(input=15, output=90, cache_read=200, cache_write=300, cache_write_1h=200)
    assert reader.tokens == expected
    price = PriceTable.load().find("claude-opus-5")
    assert price is not None
    cost = (15 * 5 + 90 * 25 + 200 * 0.5 + 100 * 6.25 + 200 * 10) / 1e6
    assert abs(price.cost(expected) - cost) < 1e-12


def test_what_anthropic_charges_beside_the_usage_of_a_call_is_counted_once() -> None:
    reader = AnthropicReader()
    usage = {"input_tokens": 23_000, "output_tokens": 1000}
    apart = {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500}
    reader.feed(sse({"type": "message_start", "message": {"usage": usage | {"output_tokens": 1}}}))
    for _ in range(2):
        reader.feed(
            sse({"type": "message_delta", "usage": usage | {"iterations": [apart, usage | {"type": "message"}]}})
        )
    assert (reader.tokens.input, reader.tokens.output) == (203_000, 4500)


def test_openais_reasoning_is_part_of_the_output_and_its_cache_of_the_input() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20},
        "output_tokens": 80,
        "output_tokens_details": {"reasoning_tokens": 64},
        "total_tokens": 180,
    }
    expected = Tokens(input=50, cache_read=30, cache_write=20, output=80, reasoning=64)
    assert read(OpenAiReader(), {"model": "gpt-5", "usage": usage, "output": []}) == expected
    chat = {
        "prompt_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 10},
        "completion_tokens": 80,
        "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 5},
        "total_tokens": 180,
    }
    heard = Tokens(input=70, cache_read=30, output=80, reasoning=64, audio_input=10, audio_output=5)
    assert read(OpenAiReader(), {"model": "gpt-5", "usage": chat, "choices": []}) == heard


def test_reasoning_that_only_the_total_has_is_output() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115}
    assert read(OpenAiReader(), {"usage": usage}).output == 105


def test_searches_of_openais_are_counted() -> None:
    output = [{"type": "web_search_call"}, {"type": "message"}, {"type": "web_search_call"}]
    usage = {"input_tokens": 1, "output_tokens": 1}
    assert read(OpenAiReader(), {"usage": usage, "output": output}).searches == 2


def test_a_failure_is_seen() -> None:
    for reader, event in (
        (AnthropicReader(), {"type": "error", "error": {"type": "overloaded_error"}}),
        (OpenAiReader(), {"type": "response.failed", "response": {"usage": None, "error": {"code": "x"}}}),
        (OpenAiReader(), {"error": {"message": "x"}}),
        (GoogleReader(), {"error": {"code": 503}}),
    ):
        reader.feed(sse(event))  # type: ignore[attr-defined]
        assert reader.failed and not reader.told, event  # type: ignore[attr-defined]


CHUNK = {"id": "c", "choices": [{"index": 0, "delta": {"content": 'say ,"usage":null and "usage"'}}]}
ASKED = [CHUNK | {"usage": None}, CHUNK | {"usage": None}, {"id": "c", "choices": [], "usage": {"total_tokens": 9}}]
NOT_ASKED = [CHUNK, CHUNK]


@given(cuts=CUTS, end=st.sampled_from([b"\n", b"\r\n", b"\r"]), compact=st.booleans())
def test_a_client_that_asks_for_no_usage_sees_none(cuts: list[int], end: bytes, compact: bool) -> None:
    separators = (",", ":") if compact else (", ", ": ")

    def stream(events: list[dict[str, Any]]) -> bytes:
        lines = [b"data: " + json.dumps(event, separators=separators).encode() for event in events]
        return b"".join(line + end + end for line in [*lines, b"data: [DONE]"])

    hider = UsageHider()
    shown = b"".join(hider.feed(piece) for piece in cut(stream(ASKED), cuts)) + hider.end()
    assert shown == stream(NOT_ASKED)


def test_events_without_choices_that_are_not_usage_pass() -> None:
    first = b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}\n\n'  # as Azure begins
    assert UsageHider().feed(first) == first.replace(b',"usage":null', b"")
