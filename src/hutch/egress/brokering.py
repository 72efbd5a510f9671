"""The node's end of the broker: starts the process when a sandbox has secrets first, starts it again when it dies, and
gives it what each sandbox may use.

The node holds the socket on which the fence reaches the broker: a connection that comes while there is none waits a
moment, and is closed when none comes. Nothing is let through without one.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from hutch.egress.child import Child
from hutch.egress.llm.refused import Refused
from hutch.egress.unprivileged import UIDS
from hutch.model import IdentityAnswer
from hutch.model.grant import SecretGrant

Issue = Callable[[str, str], Awaitable[IdentityAnswer]]


class Broker(Child):
    """One of a node. `report` is told what was done with secrets; `issue` gives the identity tokens of a sandbox, by
    its id and an audience, or raises `Refused`."""

    def __init__(self, node: str, fence: int, report: Callable[[dict[str, Any]], None], issue: Issue) -> None:
        super().__init__("hutch.egress.broker", "broker")
        self.uid = UIDS[(UIDS.index(fence) + 1) % len(UIDS)]
        self.door = f"hutch-{node}-{secrets.token_hex(8)}"
        """Name of the socket, in the host's abstract name space; only the fence's user is let in."""
        self._fence = fence
        self._report = report
        self._issue = issue
        self._issuing: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._grants: dict[str, SecretGrant] = {}

    async def stop(self) -> None:
        """End the process: no secret is used any more."""
        await self.end()
        if self._socket is not None:
            self._socket.close()

    def of(self, sandbox: str) -> SecretGrant | None:
        """What the sandbox may use."""
        return self._grants.get(sandbox)

    async def grant(self, sandbox: str, grant: SecretGrant | None) -> None:
        """What the sandbox may use, from when this returns; None: nothing."""
        if grant is None:
            await self.forget(sandbox)
            return
        if not grant.hosts:
            await self.forget(sandbox)
        self._grants[sandbox] = grant
        if not grant.hosts:
            return  # all its secrets are told to its guest: nothing comes to the broker
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(f"\0{self.door}")
            self._socket.listen(512)
        await self.tell(self._set(sandbox))
        await self.stand()

    async def forget(self, sandbox: str) -> None:
        """Nothing any more."""
        if self._grants.pop(sandbox, None) is not None:
            await self.tell({"op": "forget", "sandbox": sandbox})

    def options(self) -> list[str]:
        return [f"--uid={self.uid}", f"--fence-uid={self._fence}"]

    def sockets(self) -> Mapping[str, socket.socket]:
        assert self._socket is not None
        return {"fence": self._socket}

    def environment(self) -> Iterable[str]:
        """Authorities that the operator trusts besides."""
        return ("SSL_CERT_FILE", "SSL_CERT_DIR")

    def known(self) -> Iterable[dict[str, Any]]:
        return [self._set(sandbox) for sandbox, grant in self._grants.items() if grant.hosts]

    def hear(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "report":
                self._report(message["entry"])
            case "token":
                task = asyncio.create_task(self._give_token(message))
                self._issuing.add(task)
                task.add_done_callback(self._issuing.discard)

    async def close(self) -> None:
        """Nothing is open without one."""

    async def _give_token(self, message: dict[str, Any]) -> None:
        sandbox, audience = message["sandbox"], message["audience"]
        told: dict[str, Any] = {"op": "token", "n": message["n"], "token": None}
        try:
            self._check_token(sandbox, audience)
            answer = await self._issue(sandbox, audience)
            self.send(told | {"token": answer.token, "until": answer.expires_at})
        except Refused as refused:
            self.send(told | {"status": refused.status, "error": refused.message})

    def _check_token(self, sandbox: str, audience: str) -> None:
        """The broker reads what guests send: it has the tokens that rules refer to, and no other. Raises `Refused`."""
        grant = self._grants.get(sandbox)
        if grant is None or not any(audience in each.tokens.values() for each in grant.headers):
            raise Refused(403, "no rule of this sandbox refers to it")

    def _set(self, sandbox: str) -> dict[str, Any]:
        grant = self._grants[sandbox]
        needed = [each for each in grant.secrets if each.placeholder is not None]
        told = grant.model_copy(update={"secrets": needed})
        return {"op": "set", "sandbox": sandbox, "grant": told.model_dump(mode="json")}
