"""The sandboxes that the fence knows, by their addresses, which the firewall keeps them from forging."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Protocol

from hutch.egress.fence.bucket import Bucket
from hutch.egress.fence.names import MAX_ENTRIES, NameTable
from hutch.egress.fence.permit import Permit
from hutch.egress.fence.upstream import Upstream
from hutch.model import NetworkRules
from hutch.shares import Shares

if TYPE_CHECKING:
    from hutch.egress.fence.connection import Connection

QUESTIONS = (50.0, 200.0)
"""Questions a second of one sandbox, and in a burst."""
NEW_NAMES = (0.5, 60.0)
"""Names below wildcards that it has not asked for lately, a second and in a burst: each carries some bytes of the
sandbox's choice to whoever runs the zone."""
JUDGING = (0.2, 0.5)
"""Seconds of CPU a second, and in a burst, for judging what one sandbox says: thousands of requests. All others wait
meanwhile."""
MAX_ASKED = (4096, 32)
"""Questions that wait for the name server's answer, of all sandboxes and of one: some names never get any."""
MAX_STREAMS = (1024, 16)
"""Connections over which it is asked; the same for the others below."""
MAX_NAMES = (131_072, MAX_ENTRIES)
"""Pairs of a name and an address that are remembered."""
MAX_CONNECTIONS = (8192, 4096)
"""How many of its own a sandbox may have, its policy says."""
_DESCRIPTORS = MAX_ASKED[0] + MAX_STREAMS[0] + 2 * MAX_CONNECTIONS[0] + 256
MAX_HELD = (384 << 20, 64 << 20)
"""Bytes that one side has sent and the other does not take, on connections where that is more than a little."""


MEMORY = 1 << 30
"""Bytes that the process may have. What is above takes some 900 MiB, used up."""


class Room:
    """What the process has for all sandboxes. If one could use it up, it would close the way of all the others.
    `descriptors`: how many the process may have; `among`: the sandboxes."""

    def __init__(self, descriptors: int, among: Sized) -> None:
        part = min(1.0, descriptors / _DESCRIPTORS)
        self.asked = Shares(int(MAX_ASKED[0] * part), MAX_ASKED[1], among)
        self.streams = Shares(int(MAX_STREAMS[0] * part), MAX_STREAMS[1], among)
        self.connections = Shares(int(MAX_CONNECTIONS[0] * part), MAX_CONNECTIONS[1], among)
        self.names = Shares(*MAX_NAMES, among)
        self.held = Shares(*MAX_HELD, among)


class Node(Protocol):
    """What the fence asks of the node."""

    async def bind(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> bool:
        """Have the kernel lead connections of this guest to these places here; whether it does."""

    def report(self, **entry: Any) -> None:
        """Tell what was let through or not."""


class Guarded:
    """One sandbox."""

    def __init__(self, id: str, address: str, rules: NetworkRules, room: Room) -> None:
        self.id = id
        self.address = address
        self.permit = Permit(rules)
        self.name_servers = rules.name_servers
        self.names = NameTable(address, room.names)
        self.connections: set[Connection] = set()
        self.questions = Bucket(*QUESTIONS)
        self.new_names = Bucket(*NEW_NAMES)
        self.judging = Bucket(*JUDGING)
        self.asking = 0
        """Questions under way."""

    def change(self, rules: NetworkRules) -> None:
        """Judge by other rules from now on; what they do not allow ends."""
        self.permit = Permit(rules)
        self.name_servers = rules.name_servers
        for connection in list(self.connections):
            connection.judge_again()

    def drop(self) -> None:
        """End all its connections."""
        for connection in list(self.connections):
            connection.end()

    def forget(self) -> None:
        """It is no more."""
        self.drop()
        self.names.clear()


class Wall:
    """All that the parts of the fence share."""

    def __init__(
        self, node: Node, resolver: tuple[str, int] | None, floor: float, broker: str, descriptors: int
    ) -> None:
        self.node = node
        self._guarded: dict[str, Guarded] = {}
        self.room = Room(descriptors, self._guarded)
        self.upstream = Upstream(resolver, self.room.asked)
        self.floor = floor
        """Seconds for which an address counts at least."""
        self.broker = broker
        """Name of its socket."""

    def find(self, address: str) -> Guarded | None:
        """The sandbox with this address."""
        return self._guarded.get(address)

    def put(self, id: str, address: str, rules: NetworkRules) -> None:
        """Guard a sandbox, or go on to by other rules."""
        known = self._guarded.get(address)
        if known is not None and known.id == id:
            known.change(rules)
            return
        self.forget(address)
        self._guarded[address] = Guarded(id, address, rules, self.room)

    def forget(self, address: str) -> None:
        """Guard it no more: nothing of it is let through."""
        known = self._guarded.pop(address, None)
        if known is not None:
            known.forget()

    def sweep(self, now: float) -> None:
        """Let go what does not count any more, and end what waits for nothing."""
        for guarded in self._guarded.values():
            guarded.names.sweep(now)
            for connection in list(guarded.connections):
                connection.sweep(now)
