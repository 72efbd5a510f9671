"""How much CPU the background may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from hutch.errors import NodeUnavailable

BURST = 0.02
"""Seconds of CPU after which a nap is due."""


class Stopped(NodeUnavailable):
    """The store closes; the work is begun anew when it opens next."""

    default_hint = "The node is stopping; nothing is lost."

    def __init__(self) -> None:
        super().__init__("the node's snapshot store is closing")


class Pace:
    """Called between steps of a long work in a thread: sleeps so that the thread stays at its share of one core."""

    def __init__(self, share: float, *, clock: Callable[[], float] = time.thread_time) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"a CPU share is above 0 and at most 1, not {share}")
        self._share = share
        self._clock = clock
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let all work end at its next step."""
        self._stop.set()

    def meter(self) -> Callable[[], None]:
        """A function for one thread to call between steps. Raises `Stopped`."""
        since = self._clock()

        def step() -> None:
            nonlocal since
            if self._stop.is_set():
                raise Stopped
            used = self._clock() - since
            if used >= BURST:
                self._stop.wait(used * (1 / self._share - 1))
                since = self._clock()

        return step
