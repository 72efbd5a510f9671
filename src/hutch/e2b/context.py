"""What the handlers work with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from hutch.control.service import Control
from hutch.control.types import Idempotency
from hutch.e2b.bodies import Body
from hutch.errors import InvalidRequest, SandboxNotFound, Unauthorized
from hutch.identity import Caller, KeyRing
from hutch.model import Sandbox
from hutch.model.e2b import hutch_key, hutch_sandbox_id
from hutch.settings import Settings
from hutch.store.e2b import E2bRow

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Server:
    """What there is one of."""

    settings: Settings
    control: Control
    keys: Callable[[], KeyRing]
    """There is one once the server has started."""


@dataclass(frozen=True)
class Call:
    """One request of somebody who has a key."""

    server: Server
    request: Request
    caller: Caller

    @property
    def control(self) -> Control:
        return self.server.control

    @property
    def org(self) -> str:
        return self.caller.org

    @property
    def domain(self) -> str | None:
        return self.server.settings.domain

    @property
    def sandbox_id(self) -> str:
        """The sandbox that the path names. Raises `SandboxNotFound` for what cannot be an id."""
        given = str(self.request.path_params["id"])
        id = hutch_sandbox_id(given)
        if id is None:
            raise SandboxNotFound(f"sandbox {given[:64]!r} not found", hint="")
        return id

    @property
    def idempotency(self) -> Idempotency | None:
        """The `Idempotency-Key`. Raises `InvalidRequest`."""
        key = self.request.headers.get("idempotency-key")
        if key is None:
            return None
        if not 1 <= len(key) <= 255 or not key.isascii() or not key.isprintable():
            raise InvalidRequest("Idempotency-Key: 1 to 255 printable ASCII characters")
        return Idempotency(self.caller.key_id, key)

    async def body(self, kind: type[B]) -> B:
        """The body; an empty one is an empty object. Raises `InvalidRequest`, pydantic's `ValidationError`."""
        return await body_of(self.request, kind)

    async def living(self, settled: bool = False) -> Sandbox:
        """The sandbox that the path names, if it has not ended; `settled`: once it is neither being paused nor resumed.
        Raises `SandboxNotFound`."""
        id = self.sandbox_id
        find = self.control.settled if settled else self.control.get
        sandbox = await find(id, org=self.org)
        if sandbox.state.ended or sandbox.state == "stopping":
            raise gone(str(self.request.path_params["id"]))
        return sandbox

    async def extras(self, sandbox_id: str) -> E2bRow | None:
        """What E2B's API has stored beside a sandbox."""
        return await self.control.store.e2b.get(sandbox_id)


async def body_of(request: Request, kind: type[B]) -> B:
    """The body; an empty one is an empty object. Raises `InvalidRequest`, pydantic's `ValidationError`."""
    raw = await request.body()
    try:
        told = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a `ValueError` as well
        raise InvalidRequest("the body is not JSON") from error
    return kind.model_validate(told)


async def call_of(server: Server, request: Request) -> Call:
    """Who calls. Raises `Unauthorized`."""
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        caller = await server.keys().check(hutch_key(given.strip()) or None)
    except Unauthorized as error:
        raise Unauthorized(error.detail, hint="E2B_API_KEY is a key of this Hutch: `hutch e2b` prints it.") from error
    return Call(server, request, caller)


def gone(id: str) -> SandboxNotFound:
    """The error for a sandbox that is no more."""
    return SandboxNotFound(f"sandbox {id[:64]!r} not found", hint="")
