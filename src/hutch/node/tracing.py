"""What the kernels of sandboxes tell of their inside, as whose doing it is."""

from __future__ import annotations

from typing import Any

from hutch.node.activity import Activity, Kind
from hutch.node.entry import Entry, Registry
from hutch.runtime.trace.events import Connecting, Event, Lost, Started

STARTED: Kind = ("process", "started")
CONNECTING: Kind = ("connect", "tried")
UNTRACED: Kind = ("process", "untraced")


class Tracing:
    """Called on the event loop; nothing here waits."""

    def __init__(self, registry: Registry, activity: Activity) -> None:
        self._registry = registry
        self._activity = activity

    def heard(self, runtime_id: str, event: Event) -> None:
        """A sandbox's kernel tells something."""
        found = self._registry.running_as(runtime_id)
        if found is None:
            return
        match event:
            case Started():
                self._activity.note(found.id, STARTED, _started(event), event.time, least=("path", "uid"))
            case Connecting():
                self._activity.note(found.id, CONNECTING, _connecting(event), event.time, least=("path", "name"))
            case Lost(count):
                self._activity.lost(found.id, STARTED, count)

    def resumed(self, entry: Entry) -> None:
        """A sandbox that ran while there was no daemon is heard again."""
        reason = "the node's daemon was restarted: what was started until now, since it ended, is not told"
        self._activity.note(entry.id, UNTRACED, {"reason": reason})


def _started(event: Started) -> dict[str, Any]:
    told = {
        "path": clean(event.path),
        "argv": [clean(word) for word in event.argv],
        "cwd": clean(event.cwd),
        "uid": event.uid,
        "pid": event.pid,
    }
    return told | ({"parent": event.parent} if event.parent is not None else {})


def _connecting(event: Connecting) -> dict[str, Any]:
    told = {"address": event.address, "port": event.port, "name": clean(event.name), "pid": event.pid}
    return told | ({"path": clean(event.path)} if event.path is not None else {})


def clean(text: str) -> str:
    """Of a guest's making, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in text)
