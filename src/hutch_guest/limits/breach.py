"""A limit that was hit, and telling those whom it concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hutch_guest.processes import tree

if TYPE_CHECKING:
    from hutch_guest.guest import Guest
    from hutch_guest.processes.process import Process


class Breach:
    """The same members as `hutch.model.LimitBreach`."""

    __slots__ = ("action", "amount", "limit", "message", "pid", "process", "used")

    def __init__(
        self, limit: str, amount: int, used: int, pid: int | None, process: str | None, action: str, message: str
    ) -> None:
        self.limit = limit
        self.amount = amount
        self.used = used
        self.pid = pid
        self.process = process
        self.action = action
        self.message = message

    def to_json(self) -> dict[str, object]:
        """As it goes over the wire."""
        return {name: getattr(self, name) for name in self.__slots__}


def attribute(guest: Guest, pid: int) -> tuple[Process | None, str]:
    """The exec that a process belongs to, and the process's name."""
    name = process_name(pid)
    mark = tree.mark_of(pid)
    if mark in guest.manager.processes:
        return guest.manager.processes[mark], name
    roots = {process.pid: process for process in guest.manager.processes.values() if process.running}
    seen = 0
    one = tree.entry(pid)
    while one is not None and one.pid > 1 and seen < 64:
        owner = roots.get(one.pid) or roots.get(one.session)
        if owner is not None:
            return owner, name
        one = tree.entry(one.ppid)
        seen += 1
    return None, name


def process_name(pid: int) -> str:
    """The short name of a process."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip() or str(pid)
    except OSError:
        return str(pid)


def tell(guest: Guest, breach: Breach, owner: Process | None) -> None:
    """Put it into the stream of the exec it belongs to, and of all whose output is kept whole (the agents')."""
    for process in guest.manager.processes.values():
        if process is owner and (process.breach is None or breach.action != "refused"):
            process.breach = breach.to_json()
        if process is owner or (process.retain_all and process.running):
            process.note(breach.to_json())


def describe_bytes(count: int) -> str:
    """For example 512 MiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
