"""What runs the code of one context, whatever the language."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
"""One line of an answer, as E2B's clients read it: `type` is `stdout`, `stderr`, `result`, `error` or
`number_of_executions`."""


@dataclass(frozen=True)
class Surroundings:
    """What the code of one execution finds around it beside what earlier code left."""

    generation: str = ""
    """Changes whenever the sandbox was thawed."""
    sandbox: dict[str, str] = field(default_factory=dict)
    """The sandbox's own environment, which came after the kernel."""
    env: dict[str, str] = field(default_factory=dict)
    """For this execution alone; over the sandbox's."""


class KernelStopped(Exception):
    """It ended, or was ended. The message says how, for a person."""


class Kernel(ABC):
    """One process that keeps variables between executions. One execution at a time."""

    @abstractmethod
    async def start(self, cwd: str) -> None:
        """Start it, and wait until it takes code. Raises `KernelStopped`."""

    @abstractmethod
    def execute(self, code: str, around: Surroundings) -> AsyncGenerator[Event, None]:
        """Run code to its end. Raises `KernelStopped` when the kernel ends before."""

    @abstractmethod
    def interrupt(self) -> None:
        """What runs now ends soon, with an error, if it listens."""

    @abstractmethod
    async def kill(self, reason: str) -> None:
        """End it and what it has started; an execution that is going on raises `KernelStopped` with this reason."""

    @property
    @abstractmethod
    def stopped(self) -> str | None:
        """Why it takes no code any more; None while it does."""
