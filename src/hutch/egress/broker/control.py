"""The broker's end of its line to the node.

Node to broker: `set {n, sandbox, grant}`, `forget {n, sandbox}`; `token {n, token, until, status, error}` answers
`token`. Broker to node: `token {n, sandbox, audience}`.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hutch.egress.broker.grants import Grants
from hutch.egress.broker.refusal import Refused
from hutch.egress.line import Line
from hutch.model.grant import SecretGrant

_TOKEN_SECONDS = 15.0


class Control(Line):
    """One line, to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, grants: Grants) -> None:
        super().__init__(reader, writer)
        self._grants = grants
        self._numbers = itertools.count()
        self._fetching: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def token(self, sandbox: str, audience: str) -> tuple[str, float]:
        """Its identity token for somebody, and until when it holds (Unix time). Raises `Refused`."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._fetching[number] = answer
        self.send(op="token", n=number, sandbox=sandbox, audience=audience)
        try:
            async with asyncio.timeout(_TOKEN_SECONDS):
                said = await answer
        except TimeoutError:
            raise Refused(503, "there is no identity token: the node does not answer") from None
        finally:
            del self._fetching[number]
        if said["token"] is None:
            raise Refused(said["status"], f"there is no identity token: {said['error']}")
        return said["token"], said["until"]

    def obey(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "set":
                self._grants.put(message["sandbox"], SecretGrant.model_validate(message["grant"]))
            case "forget":
                self._grants.forget(message["sandbox"])
            case "token":
                future = self._fetching.get(message["n"])
                if future is not None and not future.done():
                    future.set_result(message)
