"""What the kernels of sandboxes tell of their inside, as whose doing it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from hutch.model.egress import EgressProcess
from hutch.node.activity import Activity, Kind
from hutch.node.entry import Entry, Registry
from hutch.node.printable import printable
from hutch.runtime.trace.events import Connecting, Event, Lost, Started

STARTED: Kind = ("process", "started")
CONNECTING: Kind = ("connect", "tried")
UNTRACED: Kind = ("process", "untraced")

_REMEMBERED = 1024
"""Connects of one sandbox: it is at its end that a connection is told."""
_EARLIER, _LATER = 10.0, 0.5
"""Seconds around the beginning of a connection within which it was asked for."""


class Tracing:
    """Called on the event loop; nothing here waits. `catch_up`: hears what a kernel has said by now."""

    def __init__(self, registry: Registry, activity: Activity, catch_up: Callable[[str], None]) -> None:
        self._registry = registry
        self._activity = activity
        self._catch_up = catch_up
        self._connects: WeakKeyDictionary[Entry, deque[Connecting]] = WeakKeyDictionary()

    def heard(self, runtime_id: str, event: Event) -> None:
        """A sandbox's kernel tells something."""
        found = self._registry.running_as(runtime_id)
        if found is None:
            return
        match event:
            case Started():
                self._activity.note(found.id, STARTED, _started(event), event.time, least=("path", "uid"))
            case Connecting():
                self._connects.setdefault(found, deque(maxlen=_REMEMBERED)).append(event)
                self._activity.note(found.id, CONNECTING, _connecting(event), event.time, least=("path", "name"))
            case Lost(count):
                self._activity.lost(found.id, STARTED, count)

    def resumed(self, entry: Entry) -> None:
        """A sandbox that ran while there was no daemon is heard again."""
        reason = "the node's daemon was restarted: what was started until now, since it ended, is not told"
        self._activity.note(entry.id, UNTRACED, {"reason": reason})

    def who(self, entry: Entry, address: str | None, port: int, began: float) -> EgressProcess | None:
        """The process that asked for the connection to this port, at any or this address, which began at this Unix
        time. Each connect is one connection's."""
        self._catch_up(entry.record.runtime_id)
        connects = self._connects.get(entry, deque[Connecting]())
        fitting = [
            each
            for each in connects
            if -_EARLIER <= each.time - began <= _LATER and each.port == port and address in (None, each.address)
        ]
        if not fitting:
            return None
        found = min(fitting, key=lambda each: abs(each.time - began))
        connects.remove(found)
        others = {each.pid for each in fitting} - {found.pid}
        path = printable(found.path) if found.path is not None else None
        return EgressProcess(pid=found.pid, path=path, name=printable(found.name), others=len(others))


def _started(event: Started) -> dict[str, Any]:
    told = {
        "path": printable(event.path),
        "argv": [printable(word) for word in event.argv],
        "cwd": printable(event.cwd),
        "uid": event.uid,
        "pid": event.pid,
    }
    return told | ({"parent": event.parent} if event.parent is not None else {})


def _connecting(event: Connecting) -> dict[str, Any]:
    told = {"address": event.address, "port": event.port, "name": printable(event.name), "pid": event.pid}
    return told | ({"path": printable(event.path)} if event.path is not None else {})
