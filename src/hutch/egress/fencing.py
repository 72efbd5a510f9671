"""The node's end of the fence: starts the process when it is needed first, starts it again when it dies, and tells it
what each sandbox may.

The node holds the sockets on which the fence is reached, so that no other program of the host can take its ports while
it is down; and it alone changes the firewall. Without a fence no name is reached: the firewall forgets all addresses of
names before a new one begins, which has heard all policies before it lets anything through.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any

import structlog

from hutch.egress.child import Child
from hutch.egress.fence.permit import closed
from hutch.egress.unprivileged import UIDS, socket_of
from hutch.errors import HutchError, InternalError
from hutch.model import NetworkPolicy, NetworkRules
from hutch.network.base import SlotPool

log = structlog.get_logger(__name__)

_PORTS = range(20000, 30000)
"""Below those that the kernel gives to whoever asks for any port."""
_LONGEST_BIND = 4 * 3600.0


class Fence(Child):
    """One of a node. `report` is told what the fence has let through or not."""

    def __init__(
        self,
        node: str,
        resolver: tuple[str, int] | None,
        floor: float,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__("hutch.egress.fence", "fence")
        self.uid = UIDS[int.from_bytes(node.encode(), "big") % len(UIDS)]
        self.resolver = resolver
        self._floor = floor
        self._report = report
        self.door = ""
        """Name of the broker's socket."""
        self._slots: SlotPool
        self._sockets: dict[str, socket.socket] = {}
        self._guarded: dict[str, tuple[str, NetworkRules]] = {}
        """By address: a sandbox and its rules."""
        self._binds: set[asyncio.Task[None]] = set()

    def listen(self) -> tuple[int, int]:
        """Open its sockets: the ports for connections and for questions. Raises `InternalError`."""
        self._sockets["tcp"], tcp = self._bound(socket.SOCK_STREAM)
        self._sockets["dns-udp"], dns = self._bound(socket.SOCK_DGRAM)
        for _ in range(100):
            try:
                self._sockets["dns-tcp"] = self._bound_to(socket.SOCK_STREAM, dns)
                return tcp, dns
            except OSError:
                self._sockets["dns-udp"].close()
                self._sockets["dns-udp"], dns = self._bound(socket.SOCK_DGRAM)
        raise InternalError("no port for the fence")

    def lead(self, slots: SlotPool) -> None:
        """Whose firewall leads connections here."""
        self._slots = slots

    async def stop(self) -> None:
        """End the process: no name is reached any more."""
        await self.end()
        for each in self._sockets.values():
            each.close()

    async def allow(self, sandbox: str, address: str, policy: NetworkPolicy, *, wait: bool = True) -> None:
        """What the sandbox with this address may reach by name, from when this returns; or, if not `wait`, when a fence
        that is being started stands."""
        if not isinstance(policy, NetworkRules):
            await self.forget(address)
            return
        self._guarded[address] = (sandbox, policy)
        await self.tell(self._set(address))
        if wait:
            await self.stand()
        else:
            self.need()  # what it is asked meanwhile waits in its sockets

    async def forget(self, address: str) -> None:
        """Nothing by name; its connections end."""
        if self._guarded.pop(address, None) is not None:
            await self.tell({"op": "forget", "address": address})

    async def drop(self, address: str) -> None:
        """End the connections of a sandbox that is about to be frozen."""
        if address in self._guarded:
            await self.tell({"op": "drop", "address": address})

    def _set(self, address: str) -> dict[str, Any]:
        sandbox, rules = self._guarded[address]
        return {"op": "set", "sandbox": sandbox, "address": address, "rules": rules.model_dump(mode="json")}

    def options(self) -> list[str]:
        options = [f"--uid={self.uid}", f"--floor={self._floor}", f"--broker={self.door}"]
        if self.resolver is not None:
            options.append(f"--resolver={self.resolver[0]}:{self.resolver[1]}")
        return options

    def sockets(self) -> Mapping[str, socket.socket]:
        return self._sockets

    def known(self) -> Iterable[dict[str, Any]]:
        return map(self._set, self._guarded)

    def hear(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "bind":
                task = asyncio.create_task(self._let_in(message))
                self._binds.add(task)
                task.add_done_callback(self._binds.discard)
            case "report":
                self._report(message["entry"])

    async def close(self) -> None:
        await self._slots.close_names()

    async def _let_in(self, message: dict[str, Any]) -> None:
        try:
            await self._slots.resolve(*self._checked(message))
            done = True
        except (HutchError, ValueError) as error:
            log.error("a name is not let in", address=message["address"], error=str(error))
            done = False
        self.send({"op": "bound", "n": message["n"], "ok": done})

    def _checked(self, message: dict[str, Any]) -> tuple[str, list[tuple[str, int]], float]:
        """What the fence asks for: it reads what guests send. Raises `ValueError`."""
        guest, seconds = message["address"], float(message["seconds"])
        if guest not in self._guarded or not 0 < seconds <= _LONGEST_BIND:
            raise ValueError(f"{guest} has no rules about names")
        ports = {port for rule in self._guarded[guest][1].names for port in rule.ports}
        targets = [(IPv4Address(address), int(port)) for address, port in message["targets"]]
        if any(closed(address) or port not in ports for address, port in targets):
            raise ValueError(f"{targets} are not for {guest}")
        return guest, [(str(address), port) for address, port in targets], seconds

    def _bound(self, kind: socket.SocketKind) -> tuple[socket.socket, int]:
        """A socket on a free port."""
        for _ in range(1000):
            port = secrets.choice(_PORTS)
            try:
                return self._bound_to(kind, port), port
            except OSError:
                continue
        raise InternalError("no port for the fence")

    def _bound_to(self, kind: socket.SocketKind, port: int) -> socket.socket:
        made = socket_of(self.uid, kind)
        try:
            made.bind(("0.0.0.0", port))
            if kind is socket.SOCK_STREAM:
                made.listen(512)
        except OSError:
            made.close()
            raise
        return made
