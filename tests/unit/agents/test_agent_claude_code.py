"""Claude Code's lines, read into events. The files are what the real CLI printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hutch.agents import AgentContext, Outcome, Parsed, get
from hutch.model import EventType

DATA = Path(__file__).parent / "data"


def parsed(lines: list[bytes]) -> tuple[list[Parsed], Outcome]:
    agent, outcome = get("claude-code"), Outcome()
    return [event for line in lines for event in agent.parse(line, outcome)], outcome


def captured(name: str) -> tuple[list[Parsed], Outcome]:
    return parsed((DATA / name).read_bytes().splitlines())


def line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def delta(text: str, kind: str = "text") -> bytes:
    body = {"type": f"{kind}_delta", kind: text}
    return line({"type": "stream_event", "event": {"type": "content_block_delta", "index": 0, "delta": body}})


def texts(events: list[Parsed], kind: EventType) -> list[str]:
    return [event.data["text"] for event in events if event.type == kind]


def test_story_becomes_thoughts_messages_and_tool_calls_in_order() -> None:
    events, outcome = captured("claude-code-story.jsonl")
    kinds = [event.type.value for event in events]
    assert kinds == [
        "agent_thought_chunk",
        "agent_message_chunk",
        *["tool_call", "tool_call_update", "agent_message_chunk"] * 2,
        *["tool_call", "tool_call_update"] * 2,
        "agent_message_chunk",
    ]
    assert outcome.error is None
    assert outcome.text is not None and outcome.text.startswith("Done. I looked at")


def test_streamed_text_is_not_said_twice() -> None:
    events, outcome = captured("claude-code-story.jsonl")
    said = "".join(texts(events, EventType.AGENT_MESSAGE_CHUNK))
    assert said.count("I'll start by looking at what is here.") == 1
    assert outcome.text is not None and said.count(outcome.text) == 1


def test_tool_call_and_its_update_share_an_id_and_tell_what_was_done() -> None:
    events, _ = captured("claude-code-story.jsonl")
    calls = [event.data for event in events if event.type == EventType.TOOL_CALL]
    updates = [event.data for event in events if event.type == EventType.TOOL_CALL_UPDATE]
    assert [call["id"] for call in calls] == [update["id"] for update in updates]
    assert [call["kind"] for call in calls] == ["execute", "execute", "edit", "execute"]
    assert calls[0]["title"] == "pwd && ls -la"
    assert calls[2]["input"]["file_path"].endswith("/report.md")
    assert "README.md" in updates[0]["output"]


def test_failed_tool_is_a_failed_update_but_no_error_of_the_agent() -> None:
    events, outcome = captured("claude-code-tool-failed.jsonl")
    updates = [event.data for event in events if event.type == EventType.TOOL_CALL_UPDATE]
    assert updates[0]["status"] == "failed"
    assert "/nowhere" in updates[0]["output"]
    assert outcome.error is None and outcome.text == "It failed."


def test_refused_key_is_the_agents_error() -> None:
    _, outcome = captured("claude-code-wrong-key.jsonl")
    assert outcome.error is not None and "Invalid API key" in outcome.error
    assert outcome.text is None


def test_used_up_budget_is_the_agents_error_and_what_came_before_is_kept() -> None:
    events, outcome = captured("claude-code-budget.jsonl")
    assert any(event.type == EventType.TOOL_CALL_UPDATE for event in events)
    assert outcome.error is not None and "budget of this task is used up" in outcome.error


def test_small_deltas_are_gathered() -> None:
    lines = [delta("word ") for _ in range(100)]
    lines += [line({"type": "stream_event", "event": {"type": "content_block_stop", "index": 0}})]
    events, _ = parsed(lines)
    chunks = texts(events, EventType.AGENT_MESSAGE_CHUNK)
    assert "".join(chunks) == "word " * 100
    assert len(chunks) <= 5


def test_line_break_sends_what_waits_at_once() -> None:
    events, _ = parsed([delta("one"), delta(" line\n")])
    assert texts(events, EventType.AGENT_MESSAGE_CHUNK) == ["one line\n"]


def test_thought_and_message_do_not_run_together() -> None:
    events, _ = parsed([delta("hm", "thinking"), delta("so"), line({"type": "result", "result": "so"})])
    assert texts(events, EventType.AGENT_THOUGHT_CHUNK) == ["hm"]
    assert texts(events, EventType.AGENT_MESSAGE_CHUNK) == ["so"]


def test_gathered_text_survives_a_restart_between_two_lines() -> None:
    agent, outcome = get("claude-code"), Outcome()
    assert agent.parse(delta("half a "), outcome) == []
    revived = Outcome(outcome.text, outcome.error, json.loads(json.dumps(outcome.state)))
    events = agent.parse(delta("sentence\n"), revived)
    assert texts(events, EventType.AGENT_MESSAGE_CHUNK) == ["half a sentence\n"]


def test_todo_list_is_also_a_plan() -> None:
    todos = [{"content": "Look", "status": "completed"}, {"content": "Write", "status": "in_progress"}]
    block = {"type": "tool_use", "id": "t1", "name": "TodoWrite", "input": {"todos": todos}}
    events, _ = parsed([line({"type": "assistant", "message": {"id": "m", "content": [block]}})])
    assert [event.type for event in events] == [EventType.TOOL_CALL, EventType.PLAN]
    assert events[1].data == {"entries": todos}


def test_helper_agents_words_are_thoughts() -> None:
    block = {"type": "text", "text": "I searched."}
    record = {"type": "assistant", "parent_tool_use_id": "t1", "message": {"id": "m", "content": [block]}}
    events, _ = parsed([line(record)])
    assert [event.type for event in events] == [EventType.AGENT_THOUGHT_CHUNK]


def test_result_of_a_run_that_gave_up_is_an_error() -> None:
    _, outcome = parsed(
        [line({"type": "result", "subtype": "error_max_turns", "is_error": False, "errors": ["Too many"]})]
    )
    assert outcome.error == "Too many"


def test_launch_gives_the_placeholder_and_the_gateway_and_the_prompt_on_stdin() -> None:
    launch = get("claude-code").launch(AgentContext("do it", "claude-x", "/w", "http://llm.hutch", "ph"))
    alone = get("claude-code").launch(AgentContext("do it", None, "/w", "http://llm.hutch", "ph", provider_tools=False))
    assert alone.argv[-2:] == ["--disallowedTools", "WebSearch"] and "--disallowedTools" not in launch.argv
    assert launch.env["ANTHROPIC_BASE_URL"] == "http://llm.hutch/anthropic"
    assert launch.env["ANTHROPIC_API_KEY"] == "ph"
    assert launch.stdin == b"do it" and "do it" not in launch.argv
    assert launch.argv[-2:] == ["--model", "claude-x"]
    assert launch.files == {}


def test_prompt_of_five_megabytes_goes_through_a_file() -> None:
    prompt = "Ünicode " * 700_000
    for name in ("claude-code", "codex"):
        launch = get(name).launch(AgentContext(prompt, None, "/w", "http://llm.hutch", "ph"))
        assert launch.files == {".hutch-task.md": prompt.encode()}
        assert launch.stdin is not None and b"~/.hutch-task.md" in launch.stdin and len(launch.stdin) < 1000


def test_a_turn_is_an_answer_of_the_model() -> None:
    _, outcome = captured("claude-code-story.jsonl")
    assert (outcome.turns, outcome.over) == (5, True)


def test_an_answer_that_comes_whole_is_one_turn_however_many_messages_it_makes() -> None:
    def said(id: str, **fields: Any) -> bytes:
        return line({"type": "assistant", "message": {"id": id, "content": [{"type": "text", "text": "t"}]}, **fields})

    lines = [said("msg_1"), said("msg_1"), said("msg_2"), said("msg_3", parent_tool_use_id="toolu_1")]
    assert parsed(lines)[1].turns == 2, "a helper's answers are no turns"


def test_a_helpers_stream_is_no_turn() -> None:
    stop = {"type": "stream_event", "event": {"type": "message_stop"}}
    assert parsed([line(stop), line(stop | {"parent_tool_use_id": "toolu_1"})])[1].turns == 1
