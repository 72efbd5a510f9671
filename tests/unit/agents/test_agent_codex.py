"""Codex's lines, read into events. The files are what the real CLI printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hutch.agents import AgentContext, Outcome, Parsed, get
from hutch.model import EventType

DATA = Path(__file__).parent / "data"


def parsed(lines: list[bytes]) -> tuple[list[Parsed], Outcome]:
    agent, outcome = get("codex"), Outcome()
    return [event for line in lines for event in agent.parse(line, outcome)], outcome


def captured(name: str) -> tuple[list[Parsed], Outcome]:
    return parsed((DATA / name).read_bytes().splitlines())


def item(stage: str, **fields: Any) -> bytes:
    return json.dumps({"type": f"item.{stage}", "item": fields}).encode()


def test_story_becomes_thoughts_messages_and_tool_calls_in_order() -> None:
    events, outcome = captured("codex-story.jsonl")
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


def test_command_is_shown_without_the_shell_around_it() -> None:
    events, _ = captured("codex-story.jsonl")
    calls = [event.data for event in events if event.type == EventType.TOOL_CALL]
    assert calls[0]["title"] == calls[0]["input"]["command"] == "pwd && ls -la"
    assert [call["kind"] for call in calls] == ["execute", "execute", "edit", "execute"]


def test_failed_command_is_a_failed_update() -> None:
    events, outcome = captured("codex-tool-failed.jsonl")
    updates = [event.data for event in events if event.type == EventType.TOOL_CALL_UPDATE]
    assert updates[0]["status"] == "failed" and "/nowhere" in updates[0]["output"]
    assert outcome.error is None and outcome.text == "It failed."


def test_refused_key_is_the_agents_error_after_its_tries_are_told() -> None:
    events, outcome = captured("codex-wrong-key.jsonl")
    assert {event.type for event in events} == {EventType.OUTPUT}
    assert all(event.data["stream"] == "stderr" for event in events)
    assert outcome.error is not None and "401" in outcome.error


def test_error_that_is_overcome_is_no_error() -> None:
    lines = [b'{"type":"error","message":"Reconnecting..."}', b'{"type":"turn.completed","usage":{}}']
    _, outcome = parsed(lines)
    assert outcome.error is None


def test_todo_list_is_a_plan() -> None:
    rows = [{"text": "Look", "completed": True}, {"text": "Write", "completed": False}]
    events, _ = parsed([item("updated", id="i", type="todo_list", items=rows)])
    assert events[0].type == EventType.PLAN
    assert events[0].data["entries"] == [
        {"content": "Look", "status": "completed"},
        {"content": "Write", "status": "pending"},
    ]


def test_tool_that_is_only_told_when_it_ends_has_both_events() -> None:
    events, outcome = parsed([item("completed", id="i", type="web_search", query="weather")])
    assert [event.type for event in events] == [EventType.TOOL_CALL, EventType.TOOL_CALL_UPDATE]
    assert events[0].data["title"] == "Search the web: weather"
    assert outcome.state["open"] == []


def test_tool_server_call_that_fails() -> None:
    fields = {"id": "i", "type": "mcp_tool_call", "server": "s", "tool": "t", "arguments": {"a": 1}}
    error = {"message": "no such thing"}
    events, _ = parsed([item("started", **fields), item("completed", **fields, error=error, status="failed")])
    assert events[0].data["title"] == "s.t" and events[0].data["input"] == {"a": 1}
    assert events[1].data == {"id": "i", "status": "failed", "output": "no such thing"}


def test_launch_leads_to_the_gateway_and_reads_the_prompt_from_stdin() -> None:
    launch = get("codex").launch(AgentContext("do it", "gpt-x", "/w", "http://llm.hutch", "ph"))
    alone = get("codex").launch(AgentContext("do it", None, "/w", "http://llm.hutch", "ph", provider_tools=False))
    assert "web_search=disabled" in alone.argv and "web_search=disabled" not in launch.argv
    assert "model_providers.hutch.base_url=http://llm.hutch/openai" in launch.argv
    assert launch.env == {"OPENAI_API_KEY": "ph"}
    assert launch.argv[-3:] == ["--model", "gpt-x", "-"]
    assert launch.stdin == b"do it"


def test_a_turn_is_a_round_of_tools_and_the_last_message() -> None:
    _, outcome = captured("codex-story.jsonl")
    assert (outcome.turns, outcome.over) == (5, True)


def test_calls_at_the_same_time_are_one_turn() -> None:
    def call(stage: str, id: str) -> bytes:
        return item(stage, id=id, type="command_execution", command="true", status="completed")

    at_once = [call("started", "1"), call("started", "2"), call("completed", "1"), call("completed", "2")]
    assert parsed(at_once)[1].turns == 1
    one_by_one = [call("started", "1"), call("completed", "1"), call("started", "2"), call("completed", "2")]
    assert parsed(one_by_one)[1].turns == 2
