"""Agents: adapters that know how to start one coding agent and how to read what it prints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hutch.model import EventType, LlmApi

MAX_LINE = 1 << 20
"""Longest line of agent output that is parsed; longer ones become a shortened `output` event."""


@dataclass(frozen=True)
class Launch:
    """How to start the agent's process in the sandbox."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    """Given on standard input, which is then closed; None means /dev/null. Prompts go here: an argument of a
    process may not be longer than 128 KiB."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files to write first; relative paths are below the agent's home."""


@dataclass(frozen=True)
class AgentContext:
    """What an adapter may know when it builds a `Launch`. There is no key here, only the placeholder."""

    prompt: str
    model: str | None
    workdir: str
    llm_url: str
    """Base URL of the LLM gateway inside the sandbox, without a trailing slash: `http://llm.hutch`."""
    placeholder: str | None
    providers: Mapping[LlmApi, str] = field(default_factory=dict)
    """Those that are called in the place of the ones whose form they have."""

    provider_tools: bool = True
    """The provider may search the web for the agent."""

    def base_url(self, api: LlmApi) -> str:
        """Where a client of this form finds its provider."""
        return f"{self.llm_url}/{self.providers.get(api, api)}"


@dataclass(frozen=True)
class Parsed:
    """One event that a line of output stands for."""

    type: EventType
    data: dict[str, Any]


@dataclass
class Outcome:
    """What the output said about the end, gathered while parsing; kept with the read position in the database, so
    it must be made of JSON values only."""

    text: str | None = None
    """The agent's last message."""
    error: str | None = None
    """The agent's own word that it failed."""
    state: dict[str, Any] = field(default_factory=dict)
    """The adapter's own memory between lines."""
    turns: int = 0
    """Answers that the model has completed. An agent that has none to tell of stays at 0."""
    answering: bool = False
    """An answer of the model has begun and is not over."""
    between: bool = False
    """Its tools are done, and it does not say where the next answer begins: there may be one that it has not told of,
    unless it asks for one still."""
    over: bool = False
    """The agent has said that it is done."""


class Agent(ABC):
    """One coding agent. Stateless: what must be remembered between lines is in the `Outcome`."""

    name: ClassVar[str]
    provider: ClassVar[Literal["anthropic", "openai"] | None]
    """Whose key it needs; None for an agent that needs none."""

    @abstractmethod
    def launch(self, context: AgentContext) -> Launch:
        """The process to start."""

    @abstractmethod
    def parse(self, line: bytes, outcome: Outcome) -> list[Parsed]:
        """The events of one line of standard output (without its newline); updates `outcome`. Never raises: the
        line comes from a hostile place, and what is not understood becomes an `output` event."""
