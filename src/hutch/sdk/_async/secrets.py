"""Secrets: what sandboxes use and never see."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from hutch.model import PutSecret, Secret
from hutch.sdk._async.transport import AsyncTransport, at
from hutch.sdk.wire import parse, refuse


class AsyncSecrets:
    """The secrets of an organisation."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> builtins.list[Secret]:
        """All of them, without their values."""
        return [parse(Secret, each) for each in (await self._transport.json("GET", "/v1/secrets"))["secrets"]]

    async def set(
        self, name: str, value: str, *, hosts: Sequence[str] = (), places: Sequence[str] | None = None
    ) -> Secret:
        """Make it or replace it. `hosts`: where it may be sent, such as `api.github.com`. `places`: where in a request,
        `bearer` and `basic` unless said otherwise; `["env"]` gives sandboxes the value itself."""
        given: dict[str, Any] = {"value": value, "hosts": list(hosts)}
        if places is not None:
            given["places"] = list(places)
        try:
            body = PutSecret.model_validate(given).model_dump(mode="json")
        except ValidationError as error:
            refuse(error)
        return parse(Secret, await self._transport.json("PUT", at("secrets", name), body=body))

    async def delete(self, name: str) -> None:
        """Forget it. `NotFound` when there is none."""
        await self._transport.request("DELETE", at("secrets", name))

    async def rekey(self) -> int:
        """Have the server encrypt all secrets with a new key, and forget the old one; how many there are."""
        count: int = (await self._transport.json("POST", "/v1/secrets/rekey"))["secrets"]
        return count
