"""Codex, OpenAI's command line agent (`codex exec --json`)."""

from __future__ import annotations

import shlex
from typing import Any, ClassVar, Literal

from hutch.agents import lines, tools
from hutch.agents.base import Agent, AgentContext, Launch, Outcome, Parsed
from hutch.agents.prompt import deliver
from hutch.model import EventType

_MAX_OPEN = 200


class Codex(Agent):
    """Runs `codex exec`, its own sandbox off: ours is around it. A provider of our own makes it speak plain HTTP; with
    its built-in one it first tries a WebSocket for seconds.

    It does not say where an answer of the model ends: a turn is a round of tool calls, and what it says last. Two
    calls of one answer that it makes one after the other count as two."""

    name: ClassVar[str] = "codex"
    provider: ClassVar[Literal["anthropic", "openai"] | None] = "openai"

    def launch(self, context: AgentContext) -> Launch:
        settings = {
            "analytics.enabled": "false",
            "check_for_update_on_startup": "false",
            "model_provider": "hutch",
            "model_providers.hutch.name": "hutch",
            "model_providers.hutch.base_url": context.base_url("openai"),
            "model_providers.hutch.wire_api": "responses",
            "model_providers.hutch.env_key": "OPENAI_API_KEY",
        }
        if not context.provider_tools:
            settings["web_search"] = "disabled"
        argv = ["codex", "exec", "--json", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check"]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        if context.model:
            argv += ["--model", context.model]
        stdin, files = deliver(context.prompt)
        return Launch(argv=[*argv, "-"], env={"OPENAI_API_KEY": context.placeholder or ""}, stdin=stdin, files=files)

    def parse(self, line: bytes, outcome: Outcome) -> list[Parsed]:
        record = lines.load(line)
        match record.get("type") if record else None:
            case "item.started" | "item.updated" | "item.completed" as kind if record:
                return self._item(kind.removeprefix("item."), lines.mapping(record.get("item")), outcome)
            case "turn.failed" if record:
                outcome.over = True
                error = lines.mapping(record.get("error")).get("message")
                outcome.error = lines.text(error) or outcome.error or "the agent reported an error"
                return []
            case "turn.completed":
                outcome.over, outcome.error = True, None
                outcome.turns += outcome.state.pop("said", 0)
                return []
            case "error" if record:
                # it may yet succeed when it tries again; `turn.failed` says that it did not
                return lines.note(lines.text(record.get("message")))
            case "thread.started" | "turn.started":
                return []
        return lines.output(line)

    def _item(self, stage: str, item: dict[str, Any], outcome: Outcome) -> list[Parsed]:
        match item.get("type"):
            case "agent_message" if stage == "completed":
                outcome.text = lines.text(item.get("text")) or outcome.text
                outcome.state["said"] = 1
                return _said(EventType.AGENT_MESSAGE_CHUNK, item)
            case "reasoning" if stage == "completed":
                return _said(EventType.AGENT_THOUGHT_CHUNK, item)
            case "todo_list":
                return [tools.plan([_todo(row) for row in lines.items(item.get("items"))])]
            case "error" if stage == "completed":
                return lines.note(lines.text(item.get("message")))
            case "agent_message" | "reasoning" | "error":
                return []
        return self._tool(stage, item, outcome)

    def _tool(self, stage: str, item: dict[str, Any], outcome: Outcome) -> list[Parsed]:
        """A command, a change of files, a search or a call of a tool server; some are only told when they end."""
        call_id = lines.label(item.get("id"))
        known = outcome.state.setdefault("open", [])
        events: list[Parsed] = []
        if call_id not in known:
            if not known:  # no other call of the same answer goes on
                outcome.turns += 1
                outcome.state.pop("said", None)
            outcome.between = False
            known.append(call_id)
            del known[:-_MAX_OPEN]
            events.append(tools.call(call_id, *_described(item)))
        if stage == "completed":
            known.remove(call_id)
            outcome.between = not known
            failed = item.get("status") in ("failed", "declined") or bool(item.get("error"))
            events.append(tools.update(call_id, failed, _result(item)))
        return events


def _described(item: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Title, kind and input of a tool call."""
    match item.get("type"):
        case "command_execution":
            command = _unwrapped(lines.text(item.get("command")))
            return command, "execute", {"command": command}
        case "file_change":
            changes = lines.items(item.get("changes"))
            names = ", ".join(lines.text(change.get("path")) for change in changes)
            return f"Edit {names}", "edit", {"changes": changes}
        case "web_search":
            query = lines.text(item.get("query"))
            return f"Search the web: {query}", "fetch", {"query": query}
        case "mcp_tool_call":
            title = f"{lines.text(item.get('server'))}.{lines.text(item.get('tool'))}"
            return title, "other", lines.mapping(item.get("arguments"))
    kind = lines.text(item.get("type")) or "tool"
    return kind.replace("_", " "), "other", {key: value for key, value in item.items() if key not in ("id", "type")}


def _unwrapped(command: str) -> str:
    """The command that Codex was asked to run, without the shell that it puts around it."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[2] if len(words) == 3 and words[1] == "-lc" else command


def _result(item: dict[str, Any]) -> str:
    error = item.get("error")
    told = error.get("message") if isinstance(error, dict) else error
    result = item.get("aggregated_output") or lines.mapping(item.get("result")).get("content") or told
    return lines.text_of(result)


def _said(kind: EventType, item: dict[str, Any]) -> list[Parsed]:
    text = lines.text(item.get("text"))
    return [Parsed(kind, {"text": text})] if text else []


def _todo(row: dict[str, Any]) -> tuple[str, str]:
    return lines.text(row.get("text")), "completed" if row.get("completed") is True else "pending"
