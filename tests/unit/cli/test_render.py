"""A task's events for a person; what a sandbox says cannot take over the terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from hutch.cli import render
from hutch.cli.console import clean, one_line
from hutch.cli.render import Renderer, meter, show_end
from hutch.model import Event, LlmUsage, Task, Usage
from tests.unit.sdk.server import task


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> tuple[io.StringIO, io.StringIO]:
    """Standard output and standard error, without colours."""
    streams = io.StringIO(), io.StringIO()
    for name, stream in zip(("out", "err"), streams, strict=True):
        console = Console(file=stream, width=500, highlight=False, soft_wrap=True, markup=False, emoji=False)
        monkeypatch.setattr(render, name, console)
    return streams


def event(kind: str, **data: Any) -> Event:
    return Event.model_validate({"offset": 1, "time": datetime.now(UTC), "type": kind, "data": data})


def shown(screen: tuple[io.StringIO, io.StringIO], *events: Event, bare: bool = False) -> tuple[str, str]:
    renderer = Renderer(bare=bare)
    for each in events:
        renderer.show(each)
    renderer.end()
    return screen[0].getvalue(), screen[1].getvalue()


def test_chunks_of_a_message_are_joined(screen: Any) -> None:
    out, _ = shown(
        screen,
        event("agent_message_chunk", text="Hello "),
        event("agent_message_chunk", text="wor"),
        event("agent_message_chunk", text="ld.\n\n"),
        event("agent_message_chunk", text="Second.\n"),
        event("agent_thought_chunk", text="hmm"),
        event("agent_message_chunk", text="Third"),
    )
    assert out == "● Hello world.\n  \n  Second.\n· hmm\n● Third\n"


def test_tools_and_what_they_gave(screen: Any) -> None:
    out, _ = shown(
        screen,
        event("tool_call", id="1", title="Bash", input={"command": "ls  -la\nrm x", "timeout": 5}),
        event("tool_call_update", id="1", status="completed", output="a\nb\n" * 10),
        event("tool_call", id="2", title="Write /a/b.txt", input={"file_path": "/a/b.txt"}),
        event("tool_call_update", id="2", status="failed"),
    )
    assert "⚙ Bash  ls -la rm x\n" in out
    assert "  └ a\n    b\n" in out and "… 14 more lines" in out
    assert "⚙ Write /a/b.txt\n  └ failed\n" in out


def test_plan_budget_limit_and_status(screen: Any) -> None:
    entries = [{"content": "one", "status": "completed"}, {"content": "two", "status": "in_progress"}]
    out, err = shown(
        screen,
        event("plan", entries=entries),
        event("budget", part="llm_usd", level="warning", used=0.81, limit=1.0),
        event("budget", part="run_time", level="exceeded", used=600.2, limit=600),
        event("limit", limit="memory", message="memory limit 512 MiB reached; process python3 killed"),
        event("status", state="running", step="agent"),
        event("usage", requests=3),
    )
    assert out == "  ☒ one\n  ▸ two\n"
    assert "budget: $0.8100 of $1.0000 used\n" in err
    assert "budget: 10m 0s of 10m 0s used; stopping" in err
    assert "memory limit 512 MiB reached; process python3 killed" in err
    assert "the agent is at work" in err


def test_a_plain_command_has_only_its_own_output(screen: Any) -> None:
    out, err = shown(
        screen,
        event("status", state="running", step="agent"),
        event("output", stream="stdout", text="line"),
        event("output", stream="stderr", text="oops"),
        event("output", stream="stdout", text="long", truncated_bytes=5 << 20),
        bare=True,
    )
    assert out == "line\nlong\n"
    assert err.startswith("oops\n") and "5.0 MiB of this line are left out" in err


EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x1b[0m\x9b5m\rback\x08\x00\x7f\u202egnp.exe\u200b[bold]x[/bold]"


def test_nothing_that_controls_a_terminal_comes_through(screen: Any) -> None:
    kinds = ["agent_message_chunk", "agent_thought_chunk", "output"]
    events = [event(kind, text=EVIL, stream="stdout") for kind in kinds]
    events += [
        event("tool_call", id=EVIL, title=EVIL, input={"command": EVIL, EVIL: EVIL}),
        event("tool_call_update", id="1", status="failed", output=EVIL),
        event("plan", entries=[{"content": EVIL, "status": EVIL}]),
        event("limit", message=EVIL),
        event("status", state=EVIL, step=EVIL, detail=EVIL),
        event("budget", part=EVIL, level=EVIL, used=EVIL, limit=EVIL),
    ]
    out, err = shown(screen, *events)
    for bad in "\x1b\x07\x9b\r\x08\x00\x7f\u202e\u200b":
        assert bad not in out + err
    assert "[bold]x[/bold]" in out, "markup of ours is text there"


@pytest.mark.parametrize(
    "kind", ["agent_message_chunk", "tool_call", "tool_call_update", "plan", "budget", "limit", "status", "output"]
)
@pytest.mark.parametrize("data", [{}, {"text": None, "entries": None, "output": {"a": [1]}, "input": 5, "title": []}])
def test_strange_data_does_not_stop_the_stream(screen: Any, kind: str, data: dict[str, Any]) -> None:
    shown(screen, event(kind, **data))


def test_clean_keeps_what_is_text() -> None:
    assert clean("tab\tnewline\nünï €\r\nnext") == "tab\tnewline\nünï €\nnext"
    assert one_line(" a\n\n b\tc " * 200, 20) == "a b c a b c a b c a…"


def ended(state: str, **result: Any) -> Task:
    return Task.model_validate(task(state=state, result={"state": state, **result}, usage=usage().model_dump()))


def usage() -> Usage:
    llm = LlmUsage(requests=3, input_tokens=12_000, output_tokens=345, usd=0.01234, unpriced_tokens=7)
    return Usage(run_time=12.3, cpu_seconds=4.56, memory_peak_bytes=158 << 20, llm=llm)


def test_meter() -> None:
    assert meter(usage()) == (
        "12 s · CPU 4.6 s · memory peak 158 MiB · 3 LLM calls, 12,345 tokens, $0.0123 (and 7 tokens without a price)"
    )
    assert meter(Usage(run_time=1)) == "1.0 s · CPU 0.0 s"


@pytest.mark.parametrize(
    ("state", "result", "text"),
    [
        ("succeeded", {}, "✓ succeeded\n"),
        ("failed", {"detail": "it broke", "exit_code": 7}, "✗ failed: it broke (exit code 7)"),
        ("budget_exceeded", {}, "✗ stopped: the budget is used up"),
        ("timed_out", {"detail": "its lifetime is over"}, "✗ stopped: its lifetime is over"),
        ("cancelled", {}, "■ cancelled"),
    ],
)
def test_the_end(screen: Any, state: str, result: dict[str, Any], text: str) -> None:
    show_end(ended(state, **result))
    assert text in screen[1].getvalue() and screen[0].getvalue() == ""
