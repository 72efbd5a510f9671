"""Ports of a sandbox, for whoever is outside."""

from __future__ import annotations

import builtins

from hutch.model import Port, PutPort, SandboxPorts
from hutch.sdk._async.transport import AsyncTransport, at
from hutch.sdk.wire import parse


class AsyncPorts:
    """`sandbox.ports`. A port is reached at its `url` with its `headers`; without the token among these where it is
    public."""

    def __init__(self, transport: AsyncTransport, sandbox_id: str) -> None:
        self._transport = transport
        self._sandbox_id = sandbox_id

    async def get(self, port: int) -> Port:
        """The way to a port, public or not. Neither wakes the sandbox nor looks whether something listens."""
        return parse(Port, await self._transport.json("GET", self._at(port)))

    async def list(self) -> builtins.list[Port]:
        """Those that were made public one by one."""
        answer = await self._transport.json("GET", at("sandboxes", self._sandbox_id) + "/ports")
        return parse(SandboxPorts, answer).ports

    async def publish(self, port: int) -> Port:
        """Let anybody who reaches the gateway reach this port, without a token, until `unpublish`."""
        return await self._put(port, public=True)

    async def unpublish(self, port: int) -> Port:
        """Only who has the token reaches it from now on; what is open without one is cut within seconds."""
        return await self._put(port, public=False)

    async def _put(self, port: int, public: bool) -> Port:
        body = PutPort(public=public).model_dump()
        return parse(Port, await self._transport.json("PUT", self._at(port), body=body, repeat=True))

    def _at(self, port: int) -> str:
        return at("sandboxes", self._sandbox_id, "ports", str(port))
