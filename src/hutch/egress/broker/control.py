"""The broker's end of its line to the node: `set {n, sandbox, grant}`, `forget {n, sandbox}`."""

from __future__ import annotations

import asyncio
from typing import Any

from hutch.egress.broker.grants import Grants
from hutch.egress.line import Line
from hutch.model.grant import SecretGrant


class Control(Line):
    """One line, to its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, grants: Grants) -> None:
        super().__init__(reader, writer)
        self._grants = grants

    def obey(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "set":
                self._grants.put(message["sandbox"], SecretGrant.model_validate(message["grant"]))
            case "forget":
                self._grants.forget(message["sandbox"])
