"""The named policies of organisations. A change is in force for all sandboxes that stand on the policy when the call
returns, but for those whose node does not answer: they are told when it is back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import uuid4

from hutch.control import networks
from hutch.control.context import Context
from hutch.control.together import each
from hutch.control.views import moment
from hutch.errors import Conflict, InvalidPolicy, LimitReached, NotFound
from hutch.model.named_policy import MAX_POLICIES, NamedPolicy, PutPolicy, check_own_name
from hutch.model.network import MAX_RULES, NetworkRules
from hutch.model.policies import BUILT_IN, together
from hutch.model.private import check_private
from hutch.store.engine import Transaction
from hutch.store.policies import PolicyRow
from hutch.store.sandboxes import SandboxRow, Standing

_NAMED = 5
"""Sandboxes that an error names."""


class Policies:
    """`Control.policies`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rows = context.store.policies
        self._sandboxes = context.store.sandboxes
        self._database = context.store.database

    async def put(self, name: str, request: PutPolicy, org: str) -> NamedPolicy:
        """Make it, or give it other rules, and tell the nodes of its sandboxes. `InvalidPolicy`, `LimitReached`."""
        check_own_name(name)
        check_private(NetworkRules(allow=request.allow).addresses, self._context.private, field="allow")
        now = time.time()
        row = PolicyRow(org, name, list(dict.fromkeys(request.allow)), uuid4().hex, now, now)
        async with self._database.write() as connection:
            await self._check_fits(connection, row)
            if await self._rows.put(connection, row, MAX_POLICIES) is None:
                hint = "`hutch policy rm` forgets one."
                what = f"an organisation has at most {MAX_POLICIES} policies"
                raise LimitReached(what, hint=hint, limit="policies")
        await each(await self._behind(org, name), self._tell)
        return await self.get(name, org)

    async def list(self, org: str) -> Sequence[NamedPolicy]:
        """Built-in ones and the organisation's, by name."""
        own = await self._rows.all(org)
        standing = await self._standing(org)
        names = sorted({*BUILT_IN, *(row.name for row in own)})
        return [_view(name, own, standing) for name in names]

    async def get(self, name: str, org: str) -> NamedPolicy:
        """One of them. `NotFound`."""
        own = await self._rows.all(org)
        if name not in BUILT_IN and all(row.name != name for row in own):
            raise _no_policy(name)
        return _view(name, own, await self._standing(org))

    async def delete(self, name: str, org: str) -> None:
        """Forget it. `NotFound`, and `Conflict` while sandboxes stand on it."""
        async with self._database.write() as connection:
            own = {row.name for row in await self._rows.all_in(connection, org)}
            if name not in own:
                check_own_name(name)
                raise _no_policy(name)
            users = _on(name, await self._sandboxes.policies_of(connection, org))
            if users and name not in BUILT_IN:
                raise Conflict(
                    f"{_count(users)} on the policy {name}: {_ids(users)}",
                    hint="End them, or change what they may reach (`hutch policy set`).",
                    sandboxes=[user.id for user in users[:_NAMED]],
                )
            await self._rows.delete(connection, org, name)

    async def catch_up(self, rows: Sequence[SandboxRow]) -> None:
        """Tell the nodes what they have not been told of these: they did not answer, or we were killed."""
        own: dict[str, Sequence[PolicyRow]] = {}
        late = []
        for row in rows:
            if networks.UNTOLD in row.policies_told:
                late.append(row.id)
            elif names := row.network.get("policies"):
                if row.org not in own:
                    own[row.org] = await self._rows.all(row.org)
                if networks.current(names, own[row.org]) != row.policies_told:
                    late.append(row.id)
        await each(late, self._tell)

    async def _tell(self, sandbox_id: str) -> None:
        await networks.tell(self._context, sandbox_id)

    async def _check_fits(self, connection: Transaction, row: PolicyRow) -> None:
        """A sandbox's rules are bounded, with those of all its policies."""
        users = _on(row.name, await self._sandboxes.policies_of(connection, row.org))
        if not users:
            return
        own = {each.name: each.allow for each in await self._rows.all_in(connection, row.org)} | {row.name: row.allow}
        for user in users:
            if (count := len(together(user.network["allow"], user.policies, own))) > MAX_RULES:
                raise InvalidPolicy(
                    f"{user.id} would have {count} rules, with those of its policies: at most {MAX_RULES}",
                    hint="Make the policy smaller, or change what the sandbox may reach (`hutch policy set`).",
                    field="allow",
                )

    async def _standing(self, org: str) -> Sequence[Standing]:
        async with self._database.read() as connection:
            return await self._sandboxes.policies_of(connection, org)

    async def _behind(self, org: str, name: str) -> Sequence[str]:
        own = await self._rows.all(org)
        return [user.id for user in _on(name, await self._standing(org)) if _late(user, own)]


def _on(name: str, standing: Sequence[Standing]) -> list[Standing]:
    return [user for user in standing if name in user.policies]


def _late(user: Standing, own: Sequence[PolicyRow]) -> bool:
    return networks.current(user.policies, own) != user.policies_told


def _view(name: str, own: Sequence[PolicyRow], standing: Sequence[Standing]) -> NamedPolicy:
    users = _on(name, standing)
    row = next((row for row in own if row.name == name), None)
    return NamedPolicy(
        name=name,
        allow=list(BUILT_IN[name]) if row is None else row.allow,
        built_in=row is None,
        created_at=moment(row.created_at) if row is not None else None,
        updated_at=moment(row.updated_at) if row is not None else None,
        sandboxes=len(users),
        pending=sum(_late(user, own) for user in users),
    )


def _no_policy(name: str) -> NotFound:
    return NotFound(f"there is no policy {name[:64]}", hint="`hutch policy ls` lists them.")


def _count(users: Sequence[Standing]) -> str:
    return f"{len(users)} sandbox stands" if len(users) == 1 else f"{len(users)} sandboxes stand"


def _ids(users: Sequence[Standing]) -> str:
    return ", ".join([user.id for user in users[:_NAMED]] + ["..."] * (len(users) > _NAMED))
