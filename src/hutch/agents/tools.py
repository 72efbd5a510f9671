"""Tool calls as events: a title that a person understands at a glance, and ACP's word for the kind of thing."""

from __future__ import annotations

from typing import Any

from hutch.agents.base import Parsed
from hutch.model import EventType

_MAX_TITLE = 160

_KINDS = {
    "Bash": "execute",
    "Edit": "edit",
    "MultiEdit": "edit",
    "NotebookEdit": "edit",
    "Write": "edit",
    "Read": "read",
    "Glob": "search",
    "Grep": "search",
    "ToolSearch": "search",
    "WebSearch": "fetch",
    "WebFetch": "fetch",
    "Agent": "think",
    "Task": "think",
}
_SUBJECTS = ("file_path", "notebook_path", "pattern", "url", "query", "description", "path")


def call(call_id: str, title: str, kind: str, arguments: Any) -> Parsed:
    """The event of a tool call that begins."""
    data = {"id": call_id, "title": short(title), "kind": kind, "input": arguments}
    return Parsed(EventType.TOOL_CALL, data)


def update(call_id: str, failed: bool, text: str) -> Parsed:
    """The event of a tool call that ended."""
    data: dict[str, Any] = {"id": call_id, "status": "failed" if failed else "completed"}
    return Parsed(EventType.TOOL_CALL_UPDATE, data | ({"output": text} if text else {}))


def plan(entries: list[tuple[str, str]]) -> Parsed:
    """The event of a plan, from (content, status) pairs."""
    known = ("pending", "in_progress", "completed")
    rows = [{"content": short(text), "status": status if status in known else "pending"} for text, status in entries]
    return Parsed(EventType.PLAN, {"entries": rows})


def claude_title(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Title and kind of a call of one of Claude Code's tools."""
    kind = _KINDS.get(name, "other")
    if name == "Bash":
        return str(arguments.get("command") or name), kind
    subject = next((arguments[key] for key in _SUBJECTS if isinstance(arguments.get(key), str)), "")
    return f"{name} {subject}".strip(), kind


def short(text: str) -> str:
    """One line, not long."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TITLE else line[: _MAX_TITLE - 1] + "…"
