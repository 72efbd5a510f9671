"""Usage out of streams, however they are cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.demo import model_anthropic, model_openai
from hutch.demo.model_script import Conversation, Manner, Text, Thinking
from hutch.egress.llm.prices import Tokens
from hutch.egress.llm.readers import AnthropicReader, OpenAiReader
from hutch.egress.llm.sse import SseReader
from hutch.egress.llm.usage import UsageReader

TALK = Conversation("some-model", "hello", 0)
PARTS = [Thinking("hm, let me see"), Text("Hello! How are you today?")]
EXPECTED = Tokens(input=3000, output=77, cache_read=3000)


def anthropic_stream() -> bytes:
    content = model_anthropic.blocks(PARTS, TALK)
    events = model_anthropic.stream(content, TALK, model_anthropic.usage(6000, 77), Manner(chunks=4))
    return b"".join(model_anthropic.encode(event) for event in events)


def responses_stream() -> bytes:
    output = model_openai.items(PARTS, TALK)
    events = model_openai.stream(output, TALK, model_openai.usage(6000, 77), Manner(chunks=4))
    return b"".join(model_openai.encode(event) for event in events)


def chat_stream() -> bytes:
    output = model_openai.items(PARTS, TALK)
    events = model_openai.chat_stream(output, TALK, model_openai.usage(6000, 77), Manner(chunks=4), True)
    return b"".join([*(model_openai.encode(event) for event in events), b"data: [DONE]\n\n"])


STREAMS: dict[str, tuple[type[UsageReader], bytes]] = {
    "anthropic": (AnthropicReader, anthropic_stream()),
    "responses": (OpenAiReader, responses_stream()),
    "chat": (OpenAiReader, chat_stream()),
}


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize("wire", STREAMS)
@given(cuts=st.lists(st.integers(0, 10**6), max_size=30), line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_usage_is_exact_however_the_stream_is_cut(wire: str, cuts: list[int], line_end: bytes) -> None:
    kind, stream = STREAMS[wire]
    reader = kind()
    for piece in pieces(stream.replace(b"\n", line_end) + line_end, cuts):
        reader.feed(piece)
    assert reader.tokens == EXPECTED
    assert reader.model == "some-model"
    assert reader.finished and reader.told


@pytest.mark.parametrize("wire", STREAMS)
@given(end=st.integers(0, 10**6))
def test_stream_cut_off_anywhere_never_counts_less_than_was_known(wire: str, end: int) -> None:
    kind, stream = STREAMS[wire]
    reader, last = kind(), 0
    for at in range(end % len(stream)):
        reader.feed(stream[at : at + 1])
        if not reader.finished:
            assert reader.tokens.output >= min(last, EXPECTED.output)
            last = reader.tokens.output


def test_anthropic_input_is_known_at_once_and_output_is_estimated_until_it_is_told() -> None:
    reader = AnthropicReader()
    start, _, rest = anthropic_stream().partition(b"event: content_block_start")
    reader.feed(start)
    assert reader.told
    assert (reader.tokens.input, reader.tokens.cache_read, reader.tokens.output) == (3000, 3000, 1)
    before_told = rest[: rest.index(b"event: message_delta")]
    reader.feed(b"event: content_block_start" + before_told)
    text = sum(len(part.text) for part in PARTS)
    assert reader.tokens.output == 1 + -(-text // 4)


def test_openai_output_is_estimated_until_the_end_and_input_is_assumed_when_cut() -> None:
    reader = OpenAiReader()
    stream = responses_stream()
    reader.feed(stream[: stream.index(b"event: response.completed")])
    assert not reader.told and reader.tokens.input == 0
    assert reader.tokens.output == -(-sum(len(part.text) for part in PARTS) // 4)
    reader.assume(1234, 0)
    assert reader.tokens.input == 1234


def test_input_is_not_assumed_once_it_is_told() -> None:
    reader = AnthropicReader()
    reader.feed(anthropic_stream())
    reader.assume(10**6, 0)
    assert reader.tokens == EXPECTED


def test_last_event_of_many_megabytes_still_tells_usage_in_bounded_memory() -> None:
    reader = OpenAiReader()
    answer = {
        "id": "r",
        "model": "some-model",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "x" * (5 << 20)}]}],
        "usage": model_openai.usage(6000, 77),
        "metadata": {},
    }
    event = b"data: " + json.dumps({"type": "response.completed", "response": answer}).encode() + b"\n\n"
    for at in range(0, len(event), 60_000):
        reader.feed(event[at : at + 60_000])
    assert reader.tokens == EXPECTED
    assert reader.finished


def test_line_without_end_stays_in_bounded_memory() -> None:
    reader = SseReader()
    for _ in range(200):
        assert reader.feed(b"data: " + b"y" * (1 << 16)) == []
    assert len(reader._line) <= (1 << 20) + (1 << 16) + 6


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_bytes_are_read_without_fault(chunks: list[bytes]) -> None:
    for kind in (AnthropicReader, OpenAiReader):
        reader = kind()
        for chunk in chunks:
            reader.feed(chunk)
        reader.read(b"".join(chunks))
        assert reader.tokens.total >= 0


USAGE_VALUES = st.none() | st.integers(-5, 10**20) | st.booleans() | st.text(max_size=3) | st.floats(allow_nan=False)
USAGE = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "prompt_tokens", "cache_read_input_tokens", "cache_creation"]),
    USAGE_VALUES | st.dictionaries(st.just("ephemeral_1h_input_tokens"), USAGE_VALUES),
)


@given(USAGE)
def test_odd_usage_figures_are_no_fault(usage: dict[str, Any]) -> None:
    for kind in (AnthropicReader, OpenAiReader):
        reader = kind()
        reader.read(json.dumps({"usage": usage, "model": 5}).encode())
        reader.feed(b"data: " + json.dumps({"type": "message_delta", "usage": usage}).encode() + b"\n\n")
        assert min(reader.tokens.input, reader.tokens.output, reader.tokens.cache_read) >= 0


def test_one_hour_cache_writes_and_searches_are_told_apart() -> None:
    reader = AnthropicReader()
    usage = {
        "input_tokens": 10,
        "output_tokens": 20,
        "cache_creation_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "server_tool_use": {"web_search_requests": 2},
    }
    reader.read(json.dumps({"model": "m", "usage": usage}).encode())
    assert reader.tokens == Tokens(input=10, output=20, cache_write=300, cache_write_1h=200, searches=2)


def test_embeddings_are_input_only() -> None:
    reader = OpenAiReader()
    reader.read(b'{"model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}}')
    assert reader.tokens == Tokens(input=8)


def test_tier_and_speed_are_told() -> None:
    fast, priority = AnthropicReader(), OpenAiReader()
    fast.read(b'{"model": "m", "usage": {"output_tokens": 1, "speed": "fast", "service_tier": "standard"}}')
    answer = {"model": "m", "service_tier": "priority", "usage": {"input_tokens": 1, "output_tokens": 2}}
    priority.feed(b"data: " + json.dumps({"type": "response.completed", "response": answer}).encode() + b"\n\n")
    assert fast.tokens == Tokens(output=1, tier="fast")
    assert priority.tokens == Tokens(input=1, output=2, tier="priority")
