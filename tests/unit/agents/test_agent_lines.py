"""Hostile output: whatever an agent prints, reading it never fails and its events stay small and storable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hutch.agents import MAX_LINE, AgentContext, Outcome, get, names
from hutch.agents.lines import MAX_TEXT
from hutch.errors import UnknownAgent
from hutch.model import EventType

DATA = Path(__file__).parent / "data"
WORDS = sorted(
    {
        word
        for path in DATA.glob("*.jsonl")
        for line in path.read_text().splitlines()
        for word in [*json.loads(line), str(json.loads(line).get("type"))]
    }
    | {"item", "message", "content", "event", "delta", "tool_use", "text", "thinking", "id", "input", "todos", "error"}
    | {"content_block_delta", "message_start", "item.started", "item.completed", "turn.failed", "command_execution"}
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=8)


def check(name: str, lines: list[bytes]) -> None:
    agent, outcome = get(name), Outcome()
    for line in lines:
        for event in agent.parse(line, outcome):
            assert isinstance(event.type, EventType)
            json.dumps(event.data, allow_nan=False).encode()
            assert "\x00" not in json.dumps(event.data, ensure_ascii=False)
    json.dumps([outcome.text, outcome.error, outcome.state], allow_nan=False, ensure_ascii=False).encode()


def check_all(lines: list[bytes]) -> None:
    """Every agent on the same lines: to think them up takes far longer than to read them."""
    for name in names():
        try:
            check(name, lines)
        except Exception as error:
            error.add_note(f"the agent was {name}")
            raise


@given(lines=st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes(lines: list[bytes]) -> None:
    check_all(lines)


@given(records=st.lists(RECORDS, max_size=3))
def test_any_json_made_of_the_agents_own_words(records: list[dict[str, Any]]) -> None:
    check_all([json.dumps(record).encode() for record in records])


@pytest.mark.parametrize("name", ["claude-code", "codex"])
@given(data=st.data())
def test_real_lines_with_a_part_replaced(name: str, data: st.DataObject) -> None:
    lines = (DATA / f"{name}-story.jsonl").read_text().splitlines()
    record = json.loads(data.draw(st.sampled_from(lines)))
    spot: Any = record
    while isinstance(spot, dict) and spot:
        key = data.draw(st.sampled_from(sorted(spot)))
        if not isinstance(spot[key], dict) or data.draw(st.booleans()):
            spot[key] = data.draw(VALUES)
            break
        spot = spot[key]
    check(name, [json.dumps(record).encode()])


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(
    "line",
    [
        b'{"type":' * 5000,
        b'{"type":"assistant","message":' + b"[" * 50000 + b"]" * 50000 + b"}",
        b'{"type":"result","result":"\\ud800\\u0000"}',
        b'{"type":"result","result":1e999}',
        b'{"type":"result","num":' + b"9" * 10000 + b"}",
        b'{"type":"result","result":NaN}',
        b"\xff\xfe\x00",
    ],
)
def test_nasty_lines(name: str, line: bytes) -> None:
    check(name, [line])


@pytest.mark.parametrize("name", names())
def test_line_too_long_to_parse_is_shortened(name: str) -> None:
    line = b'{"type":"result","result":"' + b"x" * MAX_LINE + b'"}'
    events = get(name).parse(line, Outcome())
    assert [event.type for event in events] == [EventType.OUTPUT]
    assert len(events[0].data["text"]) + events[0].data["truncated_bytes"] == len(line)
    assert len(events[0].data["text"]) <= MAX_TEXT


def test_long_text_in_an_event_is_shortened_and_says_so() -> None:
    item = {"id": "i", "type": "agent_message", "text": "x" * 200_000}
    outcome = Outcome()
    (event,) = get("codex").parse(json.dumps({"type": "item.completed", "item": item}).encode(), outcome)
    assert len(event.data["text"]) < MAX_TEXT + 100
    assert event.data["text"].endswith("more characters)")


@pytest.mark.parametrize("name", ["claude-code", "codex"])
def test_line_that_is_no_event_is_output(name: str) -> None:
    (event,) = get(name).parse(b"Warning: low on coffee", Outcome())
    assert event.type == EventType.OUTPUT
    assert event.data == {"stream": "stdout", "text": "Warning: low on coffee"}


def test_command_output_is_kept_line_by_line_blank_ones_too() -> None:
    agent, outcome = get("command"), Outcome()
    events = [event for line in (b"one", b"", b"two", b"") for event in agent.parse(line, outcome)]
    assert [event.data["text"] for event in events] == ["one", "", "two", ""]
    assert outcome.text == "two"


def test_command_longer_than_an_argument_may_be_goes_through_a_file() -> None:
    script = "echo hello\n" * 20_000
    launch = get("command").launch(AgentContext(script, None, "/w", "http://llm.hutch", None))
    assert launch.files == {".hutch-task.sh": script.encode() + b"\n"}
    assert max(len(argument) for argument in launch.argv) < 1000
    assert launch.env == {}


def test_unknown_agent_lists_the_known_ones() -> None:
    with pytest.raises(UnknownAgent) as caught:
        get("nobody")
    assert "claude-code, codex, command" in str(caught.value)
