"""What a runtime tells of the inside of a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A process has become this program."""

    time: float
    """Unix time, by the sandbox's kernel."""
    pid: int
    """As the sandbox's kernel counts, whatever namespaces are made inside."""
    parent: int | None
    path: str
    """Of the file that was loaded: for a script, its interpreter."""
    argv: tuple[str, ...]
    """Cut, where it is long."""
    cwd: str
    uid: int


@dataclass(frozen=True)
class Connecting:
    """A process asks for a connection, or names where its datagrams go to."""

    time: float
    pid: int
    path: str | None
    """The program; None when its start was not seen."""
    name: str
    """What the process calls itself."""
    address: str
    port: int


@dataclass(frozen=True)
class Lost:
    """The sandbox's kernel could not get rid of so many events."""

    count: int


Event = Started | Connecting | Lost
Tell = Callable[[str, Event], None]
"""Called on the event loop, with the id of the sandbox as the runtime knows it; must not wait."""
