"""Named policies: rules of what sandboxes may reach, under a name."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from pydantic import ValidationError

from hutch.model import NamedPolicy, PutPolicy
from hutch.sdk._async.transport import AsyncTransport, at
from hutch.sdk.wire import parse, refuse


class AsyncPolicies:
    """The named policies of an organisation; a sandbox has them by their names, in `network`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def list(self) -> builtins.list[NamedPolicy]:
        """Built-in ones and the organisation's, by name."""
        answer = await self._transport.json("GET", "/v1/policies")
        return [parse(NamedPolicy, each) for each in answer["policies"]]

    async def get(self, name: str) -> NamedPolicy:
        """One of them. `NotFound` when there is none."""
        return parse(NamedPolicy, await self._transport.json("GET", at("policies", name)))

    async def save(self, name: str, allow: Sequence[str]) -> NamedPolicy:
        """Make it, or give it other rules, in force at once for all sandboxes that stand on it: when the call returns,
        but for those that it counts as `pending`."""
        try:
            body = PutPolicy(allow=builtins.list(allow)).model_dump(mode="json")
        except ValidationError as error:
            refuse(error)
        return parse(NamedPolicy, await self._transport.json("PUT", at("policies", name), body=body, repeat=True))

    async def delete(self, name: str) -> None:
        """Forget it. `NotFound` when there is none, `Conflict` while sandboxes stand on it."""
        await self._transport.request("DELETE", at("policies", name))
