"""What the scripted model says: a fixed little story, told turn by turn, that uses the tools the agent offers.

The story: look around, look closer, write `report.md` from what was seen, say what was done. A prompt can change it
and the way it is told with words in brackets, `[model NAME]` or `[model NAME=VALUE]`:

run=COMMAND     run this instead of the story's commands, once per mention, and write no report
say=TEXT        last message
tokens=N        report N output tokens, spread over the whole answer
input_tokens=N  report N input tokens
chunks=N        send the last message in N pieces
slow=SECONDS    wait this long before each piece
stall=SECONDS   wait this long before the first byte
cut             break the connection in the middle of the answer
overload        answer 529 (Anthropic) or 503 (OpenAI)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_WORD = re.compile(r"\[model (\w+)(?:=([^\]]*))?\]")
_SHOWN = 4000


@dataclass(frozen=True)
class Text:
    """A piece of the answer for the reader."""

    text: str


@dataclass(frozen=True)
class Thinking:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True)
class Run:
    """Run a shell command with the agent's tool for that."""

    command: str
    purpose: str


@dataclass(frozen=True)
class Write:
    """Write a file with the agent's tool for that; an absolute path."""

    path: str
    content: str


@dataclass(frozen=True)
class Plan:
    """Tell the plan with the agent's tool for that, where it has one."""

    steps: tuple[str, ...]
    done: int


Part = Text | Thinking | Run | Write | Plan


@dataclass(frozen=True)
class Manner:
    """How an answer is told; see the module's text."""

    tokens: int | None = None
    input_tokens: int | None = None
    chunks: int = 8
    slow: float = 0.0
    stall: float = 0.0
    cut: bool = False
    overload: bool = False
    say: str | None = None
    runs: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompt: str) -> Manner:
        """The manner that a prompt's bracketed words ask for. A value that is no number raises ValueError."""
        words = _WORD.findall(prompt)
        last = dict(words)
        return cls(
            tokens=int(last["tokens"]) if "tokens" in last else None,
            input_tokens=int(last["input_tokens"]) if "input_tokens" in last else None,
            chunks=max(1, int(last.get("chunks", 8))),
            slow=float(last.get("slow", 0)),
            stall=float(last.get("stall", 0)),
            cut="cut" in last,
            overload="overload" in last,
            say=last.get("say"),
            runs=tuple(value for name, value in words if name == "run"),
        )


@dataclass(frozen=True)
class Conversation:
    """What the model needs to know of a request, in no provider's words."""

    model: str
    prompt: str
    turn: int
    """How many times the model has answered already."""
    outputs: list[str] = field(default_factory=list)
    """What the tools gave back so far."""
    tools: dict[str, dict[str, object]] = field(default_factory=dict)
    """The tools offered, by name."""
    size: int = 0
    """Characters of the request, for plausible token counts."""


_STEPS = ("Look around", "Look closer", "Write report.md")


def parts(talk: Conversation, manner: Manner) -> list[Part]:
    """The next answer. Without tools (an agent asking for a title, say) it is a short text."""
    if not talk.tools:
        return [Text(manner.say or "Scripted task")]
    if manner.runs:
        return _runs(talk, manner)
    story = [_look_around, _look_closer, _write_report, _check]
    return story[talk.turn](talk) if talk.turn < len(story) else [Text(manner.say or _summary())]


def _runs(talk: Conversation, manner: Manner) -> list[Part]:
    if talk.turn < len(manner.runs):
        return [Run(manner.runs[talk.turn], f"Step {talk.turn + 1}")]
    return [Text(manner.say or f"Done. The last command said:\n\n{talk.outputs[-1][:_SHOWN] if talk.outputs else ''}")]


def _look_around(talk: Conversation) -> list[Part]:
    return [
        Thinking("I know nothing of this computer yet. I look at the working directory first, then decide."),
        Text("I'll start by looking at what is here."),
        Plan(_STEPS, 0),
        Run("pwd && ls -la", "List the working directory"),
    ]


def _look_closer(talk: Conversation) -> list[Part]:
    command = (
        "uname -sr; python3 --version; nproc; "
        "find . -type f -not -path '*/.*' | head -40; git log --oneline -3 2>/dev/null || true"
    )
    return [Text("Now a closer look at the machine and the files."), Run(command, "Look at the machine and the files")]


def _write_report(talk: Conversation) -> list[Part]:
    task = _WORD.sub("", talk.prompt).strip()
    seen = "\n\n".join(f"```\n{output.strip()[:_SHOWN]}\n```" for output in talk.outputs[:2])
    report = f"# Report\n\n## The task\n\n{task[:_SHOWN]}\n\n## What I saw\n\n{seen}\n\nWritten by a scripted model.\n"
    return [
        Text("I have what I need; writing the report."),
        Plan(_STEPS, 2),
        Write(f"{_folder(talk)}/report.md", report),
    ]


def _check(talk: Conversation) -> list[Part]:
    return [Plan(_STEPS, 3), Run(f"wc -l {_folder(talk)}/report.md", "Check the report")]


def _folder(talk: Conversation) -> str:
    """The working directory, as the first command's `pwd` told."""
    where = re.search(r"^(/\S*)\s*$", talk.outputs[0] if talk.outputs else "", re.MULTILINE)
    return where.group(1).rstrip("/") if where else "/tmp"  # noqa: S108 - only when the agent ran nothing


def _summary() -> str:
    return (
        "Done. I looked at the working directory and the machine, and wrote what I found to `report.md`. "
        "(I am a scripted model: I follow a fixed story and only the tools are real.)"
    )
