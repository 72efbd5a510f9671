"""The sandboxes that the fence knows, by their addresses, which the firewall keeps them from forging."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hutch.egress.fence.bucket import Bucket
from hutch.egress.fence.names import NameTable
from hutch.egress.fence.permit import Permit
from hutch.egress.fence.upstream import Upstream
from hutch.model import NetworkRules

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


class Node(Protocol):
    """What the fence asks of the node."""

    async def bind(self, guest: str, targets: list[tuple[str, int]], seconds: float) -> bool:
        """Have the kernel lead connections of this guest to these places here; whether it does."""

    def report(self, **entry: Any) -> None:
        """Tell what was let through or not."""


class Guarded:
    """One sandbox."""

    def __init__(self, id: str, address: str, rules: NetworkRules) -> None:
        self.id = id
        self.address = address
        self.permit = Permit(rules)
        self.names = NameTable()
        self.connections: set[Connection] = set()
        self.questions = Bucket(*QUESTIONS)
        self.new_names = Bucket(*NEW_NAMES)
        self.judging = Bucket(*JUDGING)
        self.asking = 0
        """Questions under way."""
        self.streams = 0
        """Connections over which it asks."""

    def change(self, rules: NetworkRules) -> None:
        """Judge by other rules from now on; what they do not allow ends."""
        self.permit = Permit(rules)
        for connection in list(self.connections):
            connection.judge_again()

    def drop(self) -> None:
        """End all its connections."""
        for connection in list(self.connections):
            connection.end()


class Wall:
    """All that the parts of the fence share."""

    def __init__(self, node: Node, upstream: Upstream, floor: float, broker: str = "") -> None:
        self.node = node
        self.upstream = upstream
        self.floor = floor
        """Seconds for which an address counts at least."""
        self.broker = broker
        """Name of its socket."""
        self._guarded: dict[str, Guarded] = {}

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
        self._guarded[address] = Guarded(id, address, rules)

    def forget(self, address: str) -> None:
        """Guard it no more: nothing of it is let through."""
        known = self._guarded.pop(address, None)
        if known is not None:
            known.drop()

    def sweep(self, now: float) -> None:
        """Let go what does not count any more, and end what waits for nothing."""
        for guarded in self._guarded.values():
            guarded.names.sweep(now)
            for connection in list(guarded.connections):
                connection.sweep(now)
