"""What a sandbox may reach, as its node is told it: the policy that was asked for, with the rules that its named ones
have at that time. A row remembers names, and which revisions of them its node was told: where another one is current,
whoever comes by (a change of the policy, a resume, the reconciler) tells the node anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from hutch.control import secret_grants
from hutch.control.context import Context, not_running
from hutch.errors import HutchError, SandboxNotFound
from hutch.model import AllowAll, NetworkPolicy, NetworkRules
from hutch.model.headers import HeaderRule
from hutch.model.policies import BUILT_IN, expanded
from hutch.model.private import check_private
from hutch.store.policies import PolicyRow
from hutch.store.sandboxes import LIVE, SandboxRow, Standing

UNTOLD = "?"
"""Among the revisions that a node was told: it is being told another policy. No policy is called that."""
_POLICY: TypeAdapter[NetworkPolicy] = TypeAdapter(NetworkPolicy)
_BUILT_IN = {name: hashlib.sha256("\n".join(rules).encode()).hexdigest()[:32] for name, rules in BUILT_IN.items()}


@dataclass(frozen=True)
class Meaning:
    """A policy with the rules of its named ones, and which revisions of them these are."""

    policy: NetworkPolicy
    revisions: dict[str, str]


async def meaning(context: Context, org: str, policy: NetworkPolicy) -> Meaning:
    """What it means now. Raises `InvalidPolicy`."""
    if not isinstance(policy, NetworkRules):
        return Meaning(policy, {})
    rows = await context.store.policies.all(org) if policy.policies else []
    whole = expanded(policy, {row.name: row.allow for row in rows})
    check_private(whole.addresses, context.private)
    return Meaning(whole, current(policy.policies, rows))


def public(policy: NetworkPolicy) -> bool:
    """Whether all that is public can be reached anyway."""
    return isinstance(policy, AllowAll) or (isinstance(policy, NetworkRules) and policy.public)


def current(names: Sequence[str], own: Sequence[PolicyRow]) -> dict[str, str]:
    """The revisions of these policies."""
    known: Mapping[str, str] = {**_BUILT_IN, **{row.name: row.revision for row in own}}
    return {name: known.get(name, "") for name in names}


def asked(row: SandboxRow) -> NetworkPolicy:
    """As it was asked for."""
    return _POLICY.validate_python(row.network)


async def behind(context: Context, row: SandboxRow) -> bool:
    """Whether its node has to be told anew."""
    if UNTOLD in row.policies_told:
        return True
    names = Standing(row.id, row.network, row.policies_told).policies
    return bool(names) and current(names, await context.store.policies.all(row.org)) != row.policies_told


async def tell(context: Context, sandbox_id: str) -> None:
    """Tell its node what it may reach now. Nothing to do before it has come up, and when it has ended. Raises what the
    node says."""
    async with context.network_of(sandbox_id):
        row = await context.store.sandboxes.get(sandbox_id)
        if row is None or row.state not in LIVE or row.state == "starting":
            return
        meant = await meaning(context, row.org, asked(row))
        if UNTOLD in row.policies_told and row.sealed_secrets is not None:
            await secret_grants.tell(context, row)
        await _set(context, row, meant)
        async with context.store.database.write() as connection:
            await context.store.sandboxes.note(connection, row.id, policies_told=meant.revisions)


async def change(
    context: Context, row: SandboxRow, policy: NetworkPolicy, rules: Sequence[HeaderRule] | None = None
) -> None:
    """Another policy, from now on, and other header rules (None: those stay). Raises `InvalidPolicy`,
    `SandboxNotRunning`, and what the node says; it has what it had before then."""
    # One after the other: what is noted last, which forks are given, is what the node was told last.
    async with context.network_of(row.id), context.sealing if rules is not None else nullcontext():
        meant, row = await meaning(context, row.org, policy), await _row(context, row.id)
        new = replace(row, network=policy.model_dump(mode="json"), policies_told=meant.revisions | {UNTOLD: ""})
        if rules is not None:
            new = replace(new, sealed_secrets=secret_grants.with_rules(context, row, rules))
        # What is meant stands there before the node is told it: whoever is killed in between, it is told once more.
        sealed = rules is not None
        await _keep(context, new, sealed)
        try:
            await (_set(context, new, meant) if rules is None else _set_both(context, row, new, meant))
        except HutchError:
            await _keep(context, row, sealed)
            raise
        async with context.store.database.write() as connection:
            await context.store.sandboxes.note(connection, row.id, network=new.network, policies_told=meant.revisions)
    # A policy that was changed meanwhile was told to those only of which it was noted that they stand on it.
    found = await _row(context, row.id)
    if found.state not in LIVE:
        raise not_running(found)
    if await behind(context, found):
        await tell(context, row.id)


async def _row(context: Context, sandbox_id: str) -> SandboxRow:
    """As it is now. Raises `SandboxNotFound`."""
    row = await context.store.sandboxes.get(sandbox_id)
    if row is None:
        raise SandboxNotFound(f"no sandbox {sandbox_id}")
    return row


async def _keep(context: Context, row: SandboxRow, sealed: bool) -> None:
    """`sealed`: also what it may use of secrets, which else may just be sealed anew."""
    values: dict[str, Any] = {"network": row.network, "policies_told": row.policies_told}
    if sealed:
        values["sealed_secrets"] = row.sealed_secrets
    async with context.store.database.write() as connection:
        await context.store.sandboxes.intend(connection, row.id, **values)


async def _set_both(context: Context, row: SandboxRow, new: SandboxRow, meant: Meaning) -> None:
    """The rules are in force before connections are led to them."""
    try:
        if new.sealed_secrets is not None:
            await secret_grants.give(context, new)
        await _set(context, new, meant)
    except HutchError:
        with suppress(HutchError):
            await secret_grants.give(context, row)
        raise


async def _set(context: Context, row: SandboxRow, meant: Meaning) -> None:
    await context.node_of(row).set_network(row.id, secret_grants.enforced(context, row, meant.policy))
