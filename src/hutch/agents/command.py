"""Any command line as an agent: what it prints is its output, and its exit code is the task's."""

from __future__ import annotations

from typing import ClassVar, Literal

from hutch.agents import lines
from hutch.agents.base import Agent, AgentContext, Launch, Outcome, Parsed

_MAX_ARGUMENT = 100 << 10
"""The kernel takes arguments of up to 128 KiB; a longer script goes through a file."""

_SCRIPT = ".hutch-task.sh"
_BASH_OR_SH = "shell=$(command -v bash || echo /bin/sh)"


class Command(Agent):
    """The task's text is a shell command. It needs no key; with one, it finds the gateways in its environment."""

    name: ClassVar[str] = "command"
    provider: ClassVar[Literal["anthropic", "openai"] | None] = None

    def launch(self, context: AgentContext) -> Launch:
        script = context.prompt.encode("utf-8", "replace")
        env = _gateways(context)
        if len(script) <= _MAX_ARGUMENT:
            argv = ["/bin/sh", "-c", f'{_BASH_OR_SH}; exec "$shell" -l -c "$0"', context.prompt]
            return Launch(argv=argv, env=env)
        argv = ["/bin/sh", "-c", f'{_BASH_OR_SH}; exec "$shell" -l "$HOME/{_SCRIPT}"']
        return Launch(argv=argv, env=env, files={_SCRIPT: script + b"\n"})

    def parse(self, line: bytes, outcome: Outcome) -> list[Parsed]:
        events = lines.output(line, keep_blank=True)
        last = events[-1].data["text"]
        outcome.text = last if last.strip() else outcome.text
        return events


def _gateways(context: AgentContext) -> dict[str, str]:
    if context.placeholder is None:
        return {}
    return {
        "ANTHROPIC_BASE_URL": context.base_url("anthropic"),
        "ANTHROPIC_API_KEY": context.placeholder,
        "OPENAI_BASE_URL": context.base_url("openai"),
        "OPENAI_API_KEY": context.placeholder,
        "GOOGLE_GEMINI_BASE_URL": context.base_url("google"),
        "GEMINI_API_KEY": context.placeholder,
    }
