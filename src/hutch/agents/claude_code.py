"""Claude Code, Anthropic's command line agent (`claude -p --output-format stream-json`)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from hutch.agents import lines, tools
from hutch.agents.base import Agent, AgentContext, Launch, Outcome, Parsed
from hutch.agents.prompt import deliver
from hutch.model import EventType

_FLUSH_AT = 160
"""Streamed text is gathered to about this many characters: an event a token would swamp readers and the database."""

_QUIET = frozenset({"system", "rate_limit_event", "tool_progress", "tool_use_summary", "keep_alive", "auth_status"})
"""Lines that tell a person nothing."""

_DELTAS = {"text_delta": ("text", "message"), "thinking_delta": ("thinking", "thought")}


class ClaudeCode(Agent):
    """Runs `claude` as the template's ordinary user, without asking for permissions: the sandbox is the permission."""

    name: ClassVar[str] = "claude-code"
    provider: ClassVar[Literal["anthropic", "openai"] | None] = "anthropic"

    def launch(self, context: AgentContext) -> Launch:
        argv = ["claude", "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"]
        argv += ["--dangerously-skip-permissions"]
        if context.model:
            argv += ["--model", context.model]
        if not context.provider_tools:
            argv += ["--disallowedTools", "WebSearch"]
        env = {
            "ANTHROPIC_BASE_URL": context.base_url("anthropic"),
            "ANTHROPIC_API_KEY": context.placeholder or "",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",  # else it refuses to run where a template's user is root
        }
        stdin, files = deliver(context.prompt)
        return Launch(argv=argv, env=env, stdin=stdin, files=files)

    def parse(self, line: bytes, outcome: Outcome) -> list[Parsed]:
        record = lines.load(line)
        match record.get("type") if record else None:
            case "stream_event" if record:
                return self._stream_event(record, outcome)
            case "assistant" if record:
                return _flush(outcome) + self._assistant(record, outcome)
            case "user" if record:
                outcome.answering = False  # a stream that broke off has no end
                return _flush(outcome) + self._user(record)
            case "result" if record:
                return _flush(outcome) + self._result(record, outcome)
            case str() as kind if kind in _QUIET:
                return []
        return _flush(outcome) + lines.output(line)

    def _stream_event(self, record: dict[str, Any], outcome: Outcome) -> list[Parsed]:
        """Text and thoughts as they come. A helper agent's are left to its whole messages."""
        event = lines.mapping(record.get("event"))
        if record.get("parent_tool_use_id") is not None:
            return []
        match event.get("type"):
            case "message_start":
                outcome.answering = True
                outcome.state["live"] = lines.label(lines.mapping(event.get("message")).get("id"))
            case "content_block_delta":
                delta = lines.mapping(event.get("delta"))
                field, stream = _DELTAS.get(lines.text(delta.get("type")), ("", ""))
                return _gather(outcome, stream, lines.text(delta.get(field))) if field else []
            case "content_block_stop":
                return _flush(outcome)
            case "message_stop":
                outcome.answering = False
                outcome.turns += 1
        return []

    def _assistant(self, record: dict[str, Any], outcome: Outcome) -> list[Parsed]:
        message = lines.mapping(record.get("message"))
        helper = record.get("parent_tool_use_id") is not None
        streamed = (
            not helper and bool(message.get("id")) and lines.label(message.get("id")) == outcome.state.get("live")
        )
        if not helper and not streamed:
            _count_whole(lines.label(message.get("id")), outcome)
        events: list[Parsed] = []
        for block in lines.items(message.get("content")):
            if block.get("type") in ("tool_use", "server_tool_use"):
                events += _tool_use(block)
            elif not streamed:
                events += _said(block, helper)
        return events

    def _user(self, record: dict[str, Any]) -> list[Parsed]:
        return [
            tools.update(
                lines.label(block.get("tool_use_id")),
                block.get("is_error") is True,
                lines.text_of(block.get("content")),
            )
            for block in lines.items(lines.mapping(record.get("message")).get("content"))
            if block.get("type") == "tool_result"
        ]

    def _result(self, record: dict[str, Any], outcome: Outcome) -> list[Parsed]:
        outcome.over = True
        text = lines.text(record.get("result"))
        subtype = lines.text(record.get("subtype"))
        if record.get("is_error") is True or subtype.startswith("error"):
            reasons = record.get("errors")
            told = text or (lines.text_of(reasons) if reasons else "")
            outcome.error = told or subtype or "the agent reported an error"
        else:
            outcome.text, outcome.error = text or outcome.text, None
        return []


def _count_whole(id: str, outcome: Outcome) -> None:
    """An answer that did not come as a stream is a turn; its blocks may come as several messages of one id."""
    if id and outcome.state.get("whole") != id:
        outcome.state["whole"] = id
        outcome.turns += 1


def _said(block: dict[str, Any], helper: bool) -> list[Parsed]:
    """A whole block of text or thought. What a helper agent says is a thought of the one that was asked."""
    if block.get("type") == "text" and (text := lines.text(block.get("text"))):
        return [Parsed(EventType.AGENT_THOUGHT_CHUNK if helper else EventType.AGENT_MESSAGE_CHUNK, {"text": text})]
    if block.get("type") == "thinking" and (text := lines.text(block.get("thinking"))):
        return [Parsed(EventType.AGENT_THOUGHT_CHUNK, {"text": text})]
    return []


def _tool_use(block: dict[str, Any]) -> list[Parsed]:
    name, arguments = lines.label(block.get("name")), lines.mapping(block.get("input"))
    title, kind = tools.claude_title(name, arguments)
    events = [tools.call(lines.label(block.get("id")), title, kind, arguments)]
    if name == "TodoWrite":
        todos = lines.items(arguments.get("todos"))
        events.append(tools.plan([(lines.text(todo.get("content")), lines.text(todo.get("status"))) for todo in todos]))
    return events


def _gather(outcome: Outcome, stream: str, text: str) -> list[Parsed]:
    """Adds streamed text to what waits; the event when enough has come."""
    events = _flush(outcome) if outcome.state.get("stream") != stream else []
    waiting = lines.text(outcome.state.get("text")) + text
    outcome.state.update(stream=stream, text=waiting)
    return events + (_flush(outcome) if len(waiting) >= _FLUSH_AT or "\n" in text else [])


def _flush(outcome: Outcome) -> list[Parsed]:
    """The event of what waits."""
    text, stream = lines.text(outcome.state.pop("text", "")), outcome.state.pop("stream", None)
    if not text:
        return []
    kind = EventType.AGENT_THOUGHT_CHUNK if stream == "thought" else EventType.AGENT_MESSAGE_CHUNK
    return [Parsed(kind, {"text": text})]
