"""Agents by name."""

from __future__ import annotations

from hutch.agents.base import MAX_LINE, Agent, AgentContext, Launch, Outcome, Parsed
from hutch.agents.claude_code import ClaudeCode
from hutch.agents.codex import Codex
from hutch.agents.command import Command
from hutch.errors import UnknownAgent

_AGENTS: dict[str, Agent] = {agent.name: agent for agent in (ClaudeCode(), Codex(), Command())}


def get(name: str) -> Agent:
    """The agent of that name; `UnknownAgent` lists the known ones."""
    if name not in _AGENTS:
        raise UnknownAgent(
            f"There is no agent {name[:64]!r}.", hint=f"The agents are {', '.join(names())}.", field="agent"
        )
    return _AGENTS[name]


def names() -> list[str]:
    """All agents."""
    return sorted(_AGENTS)


__all__ = ["MAX_LINE", "Agent", "AgentContext", "Launch", "Outcome", "Parsed", "get", "names"]
