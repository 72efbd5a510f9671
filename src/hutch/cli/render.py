"""A task's events for a person, as they come."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from hutch.cli.console import clean, err, one_line, out
from hutch.cli.units import human_bytes, human_seconds
from hutch.model import Event, EventType, LlmUsage, Task, TaskState, Usage

TOOL_OUTPUT_LINES = 6
_CHUNKS = {EventType.AGENT_MESSAGE_CHUNK: ("● ", ""), EventType.AGENT_THOUGHT_CHUNK: ("· ", "dim italic")}
_PLAN_MARKS = {"completed": "☒", "in_progress": "▸", "pending": "☐"}
_END = {
    TaskState.SUCCEEDED: ("✓ succeeded", "bold green"),
    TaskState.CANCELLED: ("■ cancelled", "bold yellow"),
    TaskState.BUDGET_EXCEEDED: ("✗ stopped", "bold red"),
    TaskState.TIMED_OUT: ("✗ stopped", "bold red"),
    TaskState.FAILED: ("✗ failed", "bold red"),
}
_WHY = {TaskState.BUDGET_EXCEEDED: "the budget is used up", TaskState.TIMED_OUT: "the time is up"}
_STEPS = {
    "boot": "starting a sandbox",
    "inputs": "sending the inputs in",
    "agent": "the agent is at work",
    "outputs": "collecting the outputs",
}
_TELLING = ("command", "file_path", "path", "pattern", "url", "query", "description", "prompt")
"""The part of a tool's input that says most, best first."""


class Renderer:
    """Prints events. What the agent does goes to standard output, what becomes of it to standard error.

    For the agent `command` (`bare`) only the command's own output is printed, each stream where it belongs.
    """

    def __init__(self, *, bare: bool = False) -> None:
        self._bare = bare
        self._open: EventType | None = None  # a message whose next chunk goes on where this one ended
        self._held = ""  # newlines at the end of a chunk wait for what follows
        self._tools: dict[str, str] = {}

    def show(self, event: Event) -> None:
        """Print one event."""
        if event.type in _CHUNKS:
            return self._chunk(event.type, clean(event.data.get("text") or ""))
        self._close()
        match event.type:
            case EventType.OUTPUT:
                self._output(event.data)
            case EventType.TOOL_CALL:
                self._tool(event.data)
            case EventType.TOOL_CALL_UPDATE:
                self._tool_update(event.data)
            case EventType.PLAN:
                self._plan(event.data)
            case EventType.BUDGET:
                self._budget(event.data)
            case EventType.LIMIT:
                _line(err, "▲ ", one_line(event.data.get("message", "a limit was hit")), "red")
            case EventType.EGRESS:
                _line(err, "▲ ", one_line(event.data.get("message", "a connection was refused")), "yellow")
            case EventType.CHECKPOINT if event.data.get("detail"):
                text = f"turn {event.data.get('turn')} has no checkpoint: {one_line(event.data['detail'])}"
                _line(err, "▲ ", text, "yellow")
            case EventType.ROLLED_BACK:
                self._tools.clear()
                _line(err, "↺ ", f"taken back to turn {event.data.get('turn')}", "bold yellow")
            case EventType.STATUS if not self._bare:
                self._status(event.data)
            case _:
                pass  # usage: the meter at the end says it; result: `show_end`

    def _chunk(self, kind: EventType, text: str) -> None:
        if not text:
            return
        mark, style = _CHUNKS[kind]
        if self._open is not kind:
            self._close()
            out.print(Text(mark, style=style or "bold"), end="")
            self._open, self._held, text = kind, "", text.lstrip("\n")
        text = self._held + text
        shown = text.rstrip("\n")
        self._held = text[len(shown) :]
        out.print(Text(shown.replace("\n", "\n  "), style=style), end="")

    def end(self) -> None:
        """End what is being printed."""
        self._close()

    def _close(self) -> None:
        """End the message that is being printed."""
        if self._open is not None:
            out.print()
        self._open = None

    def _output(self, data: dict[str, Any]) -> None:
        text = str(data.get("text") or "")
        console = err if data.get("stream") == "stderr" else out
        if self._bare:
            console.print(Text(clean(text)))
        else:
            _line(console, "  ", clean(text).rstrip(), "dim")
        if cut := data.get("truncated_bytes"):
            _line(err, "▲ ", f"{human_bytes(int(cut))} of this line are left out", "yellow")

    def _tool(self, data: dict[str, Any]) -> None:
        title, told = one_line(data.get("title", "tool"), 80), _telling(data.get("input"))
        self._tools[str(data.get("id"))] = title
        line = Text.assemble(("⚙ ", "cyan"), (title, "bold cyan"))
        if told and told[:40] not in title and title.rstrip("…")[:40] not in told:
            line.append(f"  {told}")
        out.print(line)

    def _tool_update(self, data: dict[str, Any]) -> None:
        failed = data.get("status") == "failed"
        text = data.get("output")
        lines = clean(text if isinstance(text, str) else json.dumps(text) if text else "").strip().splitlines()
        shown = [line if len(line) <= 160 else line[:159] + "…" for line in lines[:TOOL_OUTPUT_LINES]]
        if len(lines) > TOOL_OUTPUT_LINES:
            shown.append(f"… {len(lines) - TOOL_OUTPUT_LINES} more lines")
        if failed and not shown:
            shown = ["failed"]
        for index, line in enumerate(shown):
            _line(out, "  └ " if index == 0 else "    ", line, "red" if failed else "dim")

    def _plan(self, data: dict[str, Any]) -> None:
        for entry in data.get("entries") or []:
            done = entry.get("status")
            style = "dim" if done == "completed" else "bold" if done == "in_progress" else ""
            _line(out, f"  {_PLAN_MARKS.get(str(done), '☐')} ", one_line(entry.get("content", ""), 120), style)

    def _budget(self, data: dict[str, Any]) -> None:
        part, over = str(data.get("part", "")), data.get("level") == "exceeded"
        used, limit = (_amount(part, data.get(name)) for name in ("used", "limit"))
        text = f"budget: {used} of {limit} used" + ("; stopping" if over else "")
        _line(err, "▲ ", text, "bold red" if over else "yellow")

    def _status(self, data: dict[str, Any]) -> None:
        state, step = str(data.get("state", "")), str(data.get("step", ""))
        if state in _END:
            return  # `show_end` says it
        text = _STEPS.get(step) or one_line(f"{state} {step}".strip())
        told = [one_line(data[name]) for name in ("detail", "reason") if data.get(name)]
        _line(err, "· ", ": ".join([text, *told]), "dim" if not told else "yellow")


def show_end(task: Task) -> None:
    """How it ended, and the meter."""
    text, style = _END.get(task.state, (str(task.state), "bold"))
    line = Text(text, style=style)
    why = (task.result.detail or task.result.error) if task.result else None
    if task.state != TaskState.SUCCEEDED and (why := why or _WHY.get(task.state)):
        line.append(f": {one_line(why, 500)}", style="not bold")
    if task.result and task.state == TaskState.FAILED and task.result.exit_code:
        line.append(f" (exit code {task.result.exit_code})", style="not bold")
    err.print(line)
    for breach in task.breaches[:5]:
        _line(err, "▲ ", one_line(breach.message), "red")
    _line(err, "  ", meter(task.usage), "dim")


def meter(usage: Usage) -> str:
    """What was used, on one line."""
    parts = [human_seconds(usage.run_time), f"CPU {usage.cpu_seconds:.1f} s"]
    if usage.memory_peak_bytes:
        parts.append(f"memory peak {human_bytes(usage.memory_peak_bytes)}")
    if usage.llm.requests:
        parts.append(_llm(usage.llm))
    return " · ".join(parts)


def _llm(llm: LlmUsage) -> str:
    calls = "1 LLM call" if llm.requests == 1 else f"{llm.requests} LLM calls"
    text = f"{calls}, {llm.tokens:,} tokens, ${llm.usd:.4f}"
    return f"{text} (and {llm.unpriced_tokens:,} tokens without a price)" if llm.unpriced_tokens else text


def _amount(part: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "?"
    if part == "run_time":
        return human_seconds(value)
    return f"${value:.4f}" if part == "llm_usd" else f"{value:,.0f} tokens"


def _telling(given: Any) -> str:
    """The one line that tells what a tool is asked to do."""
    if isinstance(given, dict):
        given = next((given[key] for key in _TELLING if given.get(key)), None) or (json.dumps(given) if given else "")
    if isinstance(given, list):
        given = " ".join(str(each) for each in given)
    return one_line(given or "", 120)


def _line(console: Console, mark: str, text: str, style: str) -> None:
    console.print(Text(mark + text.replace("\n", "\n" + " " * len(mark)), style=style))
