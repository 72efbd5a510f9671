"""Shorter waits of the host's kernel for its cores, while a sandbox is started.

A start is four processes of `runsc`, one after the other, and each registers for memory barriers (`membarrier`) when it
has threads already: the kernel then waits twice until every core has passed through its scheduler (an RCU grace
period), 20 to 40 ms a process, in which nothing is done. With `rcu_expedited` it interrupts the cores instead: 0.3 to
5 ms. `rcu_normal`, where the host's owner has set it, is stronger.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

SWITCH = Path("/sys/kernel/rcu_expedited")


class Hurry:
    """`note` is a file that stands while the switch is on by our doing: after a `kill -9` the next one puts it off.
    Where it cannot be put on, or is on anyway, nothing happens. To be used by any thread."""

    def __init__(self, note: Path, switch: Path = SWITCH) -> None:
        self._note = note
        self._switch = switch
        self._lock = threading.Lock()
        self._holders = 0

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """While this lasts."""
        with self._lock, contextlib.suppress(OSError):
            self._holders += 1
            if self._switch.read_text().strip() == "0":
                self._note.touch()
                self._switch.write_text("1")
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
            self.settle()

    def settle(self) -> None:
        """Put the switch off that a killed daemon has left on, unless it is in use again."""
        with self._lock, contextlib.suppress(OSError):
            if self._holders == 0 and self._note.exists():
                self._switch.write_text("0")
                self._note.unlink()
