"""Which program each process of a sandbox is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

MOST = 8192
"""Processes of one sandbox that are remembered: those that were heard of last."""


@dataclass(frozen=True)
class Program:
    """A process, as far as it is known."""

    path: str | None
    parent: int | None


UNKNOWN = Program(None, None)


class Programs:
    """Of one sandbox. A process that is made is its parent's program until it becomes another."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, Program] = OrderedDict()

    def of(self, pid: int) -> Program:
        """`UNKNOWN` where nothing was heard of it."""
        return self._known.get(pid, UNKNOWN)

    def cloned(self, parent: int, child: int) -> None:
        """A thread is none of its own."""
        if parent != child:
            self._note(child, Program(self.of(parent).path, parent))

    def executed(self, pid: int, path: str) -> None:
        self._note(pid, Program(path, self.of(pid).parent))

    def exited(self, pid: int) -> None:
        self._known.pop(pid, None)

    def seed(self, found: Iterable[tuple[int, int, str]]) -> None:
        """Processes that were there before anything was heard, with parent and path; what was heard is newer."""
        for pid, parent, path in found:
            if pid not in self._known:
                self._note(pid, Program(path, parent))

    def _note(self, pid: int, program: Program) -> None:
        self._known[pid] = program
        self._known.move_to_end(pid)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
