"""How much CPU the background may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hutch.errors import NodeUnavailable

BURST = 0.02
"""Seconds of CPU after which a nap is due."""
LONGEST_NAP = 1.0
"""Seconds that a nap lasts at most while something urgent is done: the background must come to its end as well."""


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
        self._urgent = 0
        self._calm = threading.Event()
        self._calm.set()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """While this lasts the background all but stands still: a sandbox is being frozen or thawed, for which somebody
        waits, and both would want the same cores and disk. To be called in the event loop's thread."""
        self._urgent += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._urgent -= 1
            if self._urgent == 0:
                self._calm.set()

    def stop(self) -> None:
        """Let all work end at its next step."""
        self._stop.set()
        self._calm.set()

    def meter(self) -> Callable[[], None]:
        """A function for one thread to call between steps. Raises `Stopped`."""
        since = self._clock()

        def step() -> None:
            nonlocal since
            if self._stop.is_set():
                raise Stopped
            used = self._clock() - since
            if not self._calm.is_set():
                self._calm.wait(LONGEST_NAP)
            if used >= BURST:
                self._stop.wait(used * (1 / self._share - 1))
                since = self._clock()

        return step

    def slowly(self, rate: float) -> Callable[[int], None]:
        """A function for one thread to call with the bytes that it has read: no more than `rate` of them a second.
        Raises `Stopped`."""

        def step(size: int) -> None:
            if not self._calm.is_set():
                self._calm.wait(LONGEST_NAP)
            if self._stop.wait(size / rate):
                raise Stopped

        return step
