"""The node's end of the fence: starts the process when it is needed first, starts it again when it dies, and tells it
what each sandbox may.

The node holds the sockets on which the fence is reached, so that no other program of the host can take its ports while
it is down; and it alone changes the firewall. Without a fence no name is reached: the firewall forgets all addresses of
names before a new one begins, which has heard all policies before it lets anything through.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import structlog

from hutch.egress.fence.control import MAX_LINE
from hutch.egress.fence.permit import closed
from hutch.errors import HutchError, InternalError
from hutch.model import NetworkPolicy, NetworkRules
from hutch.network.base import SlotPool

log = structlog.get_logger(__name__)

_UIDS = range(61184, 65520)
"""Users that belong to nobody (systemd gives them out for as long as a service runs)."""
_PORTS = range(20000, 30000)
"""Below those that the kernel gives to whoever asks for any port."""
_ACKNOWLEDGED = 3.0
"""Seconds in which the fence has to do as it is told, else it is started anew."""
_RETRY = (0.1, 5.0)
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "LANG")
"""What the fence's Python may need to start."""
_LONGEST_BIND = 4 * 3600.0


class Fence:
    """One of a node. `report` is told what the fence has let through or not."""

    def __init__(
        self,
        node: str,
        resolver: tuple[str, int] | None,
        floor: float,
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.uid = _UIDS[int.from_bytes(node.encode(), "big") % len(_UIDS)]
        self.resolver = resolver
        self._floor = floor
        self._report = report
        self._slots: SlotPool
        self._sockets: dict[str, socket.socket] = {}
        self._guarded: dict[str, tuple[str, NetworkRules]] = {}
        """By address: a sandbox and its rules."""
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._status: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._binds: set[asyncio.Task[None]] = set()

    def listen(self) -> tuple[int, int]:
        """Open its sockets: the ports for connections and for questions. Raises `InternalError`."""
        self._sockets["tcp"], tcp = _bound(socket.SOCK_STREAM)
        self._sockets["dns-udp"], dns = _bound(socket.SOCK_DGRAM)
        for _ in range(100):
            try:
                self._sockets["dns-tcp"] = _bound_to(socket.SOCK_STREAM, dns)
                return tcp, dns
            except OSError:
                self._sockets["dns-udp"].close()
                self._sockets["dns-udp"], dns = _bound(socket.SOCK_DGRAM)
        raise InternalError("no port for the fence")

    def lead(self, slots: SlotPool) -> None:
        """Whose firewall leads connections here."""
        self._slots = slots

    async def stop(self) -> None:
        """End the process: no name is reached any more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for each in self._sockets.values():
            each.close()

    async def allow(self, sandbox: str, address: str, policy: NetworkPolicy) -> None:
        """What the sandbox with this address may reach by name, from when this returns."""
        if not isinstance(policy, NetworkRules):
            await self.forget(address)
            return
        self._guarded[address] = (sandbox, policy)
        if self._keeper is None:  # what it is asked meanwhile waits in its sockets
            self._keeper = asyncio.create_task(self._keep(), name="fence")
        await self._tell(self._set(address))

    async def forget(self, address: str) -> None:
        """Nothing by name; its connections end."""
        if self._guarded.pop(address, None) is not None:
            await self._tell({"op": "forget", "address": address})

    async def drop(self, address: str) -> None:
        """End the connections of a sandbox that is about to be frozen."""
        if address in self._guarded:
            await self._tell({"op": "drop", "address": address})

    async def _tell(self, message: dict[str, Any]) -> None:
        """Returns when it has been done. One that cannot be told is ended: the next one hears it at its start."""
        if self._writer is None:
            return
        number, done = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waiting[number] = done
        self._send(message | {"n": number})
        try:
            async with asyncio.timeout(_ACKNOWLEDGED):
                await done
        except TimeoutError:
            log.error("the fence does not answer")
            self._kill()
        finally:
            self._waiting.pop(number, None)

    def _set(self, address: str) -> dict[str, Any]:
        sandbox, rules = self._guarded[address]
        return {"op": "set", "sandbox": sandbox, "address": address, "rules": rules.model_dump(mode="json")}

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _keep(self) -> None:
        pause = _RETRY[0]
        while True:
            try:
                await self._run()
                pause = _RETRY[0]
            except Exception as error:  # also what only a fence that was taken over would say
                pause = min(2 * pause, _RETRY[1])
                log.error("the fence has failed", error=f"{type(error).__name__}: {error}")
            log.warning("the fence has ended, and is started again; until then no name is reached", status=self._status)
            await asyncio.sleep(pause)

    async def _run(self) -> None:
        """One life of the process."""
        await self._slots.close_names()
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
            try:
                self._process = await self._spawn(theirs)
            except BaseException:
                writer.close()
                raise
        try:
            await self._converse(reader, writer)
        finally:
            self._writer = None
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(None)  # it is closed, whatever it was to do
            writer.close()
            self._kill()
            self._status = await asyncio.shield(self._process.wait())
            self._process = None
            with contextlib.suppress(HutchError):  # the table goes with the node
                await self._slots.close_names()

    async def _spawn(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        descriptors = {"control": theirs.fileno(), **{name: each.fileno() for name, each in self._sockets.items()}}
        options = [f"--{name}={descriptor}" for name, descriptor in descriptors.items()]
        if self.resolver is not None:
            options.append(f"--resolver={self.resolver[0]}:{self.resolver[1]}")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hutch.egress.fence", f"--uid={self.uid}", f"--floor={self._floor}", *options),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=tuple(descriptors.values()),
            # The node's own may hold keys of its operator.
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            match message["op"]:
                case "ready":
                    self._writer = writer
                    for address in self._guarded:
                        self._send(self._set(address) | {"n": next(self._numbers)})
                    self._send({"op": "told", "n": next(self._numbers)})
                    log.info("the fence stands", sandboxes=len(self._guarded))
                case "done":
                    future = self._waiting.get(message["n"])
                    if future is not None and not future.done():
                        future.set_result(None)
                case "bind":
                    task = asyncio.create_task(self._let_in(message))
                    self._binds.add(task)
                    task.add_done_callback(self._binds.discard)
                case "report":
                    self._report(message["entry"])

    async def _let_in(self, message: dict[str, Any]) -> None:
        try:
            await self._slots.resolve(*self._checked(message))
            done = True
        except (HutchError, ValueError) as error:
            log.error("a name is not let in", address=message["address"], error=str(error))
            done = False
        self._send({"op": "bound", "n": message["n"], "ok": done})

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

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _bound(kind: socket.SocketKind) -> tuple[socket.socket, int]:
    """A socket on a free port."""
    for _ in range(1000):
        port = secrets.choice(_PORTS)
        try:
            return _bound_to(kind, port), port
        except OSError:
            continue
    raise InternalError("no port for the fence")


def _bound_to(kind: socket.SocketKind, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    try:
        made.bind(("0.0.0.0", port))
        if kind is socket.SOCK_STREAM:
            made.listen(512)
    except OSError:
        made.close()
        raise
    return made
