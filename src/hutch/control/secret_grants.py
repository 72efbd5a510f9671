"""What a sandbox may use of its organisation's secrets: chosen when it is made, and given to its node with the values
as they are then, and again whenever one of them changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import token_hex

import structlog

from hutch.control.context import Context
from hutch.control.placeholders import new_placeholder
from hutch.errors import HutchError, InvalidRequest, NodeUnavailable
from hutch.model import AllowAll, Model, NetworkPolicy, NetworkRules
from hutch.model.grant import GrantedHeaders, GrantedSecret, SecretGrant, brokered
from hutch.model.headers import HeaderRule, filled
from hutch.model.secret import ENV, SecretHost, parse_host
from hutch.secrets import VaultError
from hutch.store.e2b_secrets import E2bSecretRow
from hutch.store.sandboxes import SandboxRow
from hutch.store.secrets import SecretRow
from hutch.tls.minting import Authority

log = structlog.get_logger("hutch.control")


class Chosen(Model):
    """One secret of a sandbox. It never gets more than it was made with: other hosts, or the value itself."""

    name: str
    placeholder: str | None
    """None: it is given the value itself."""
    hosts: list[str]


class Kept(Model):
    """What is kept of a sandbox, sealed: its placeholders, and the authority that it trusts for their hosts."""

    authority: str
    key: str
    secrets: list[Chosen]
    rules: list[HeaderRule] = []


async def choose(
    context: Context,
    id: str,
    org: str,
    names: Sequence[str],
    policy: NetworkPolicy,
    rules: Sequence[HeaderRule] = (),
) -> Kept | None:
    """What a new sandbox may use. Raises `InvalidRequest` for a secret that there is not, or that it could never
    use."""
    if not names and not rules:
        return None
    rows = {row.name: row for row in await context.store.secrets.some(org, names)}
    chosen = []
    for name in dict.fromkeys(names):
        if name not in rows:
            hint = "`hutch secret ls` lists them."
            raise InvalidRequest(f"there is no secret {name[:64]}", hint=hint, field="secrets", value=name[:64])
        _check_reachable(rows[name], policy)
        value = _value(context, rows[name])
        plain = ENV in rows[name].places
        chosen.append(Chosen(name=name, placeholder=None if plain else new_placeholder(value), hosts=rows[name].hosts))
    return _vouching(id, Kept(authority="", key="", secrets=chosen, rules=list(rules)))


def with_rules(context: Context, row: SandboxRow, rules: Sequence[HeaderRule]) -> bytes | None:
    """What is to be kept of it when it has these header rules instead of those that it has. Its authority stays, unless
    it cannot vouch for their hosts. `Context.sealing` is held until it is."""
    before = _kept(context, row)
    if before is None and not rules:
        return row.sealed_secrets
    old = before or Kept(authority="", key="", secrets=[])
    kept = old.model_copy(update={"rules": list(rules)})
    if not set(_names(kept)) <= set(_names(old)):
        kept = _vouching(row.id, kept)
    return seal(context, row.id, kept)


def rules_of(context: Context, row: SandboxRow) -> list[HeaderRule]:
    """Its header rules, with references to secrets, and no values of them."""
    kept = _kept(context, row)
    return kept.rules if kept is not None else []


def _vouching(id: str, kept: Kept) -> Kept:
    """With a new authority for all of its hosts. Its name is its own: a sandbox may come to know several."""
    authority = Authority.make(f"hutch broker of {id} {token_hex(4)}", _names(kept) or ["invalid"])
    return kept.model_copy(update={"authority": authority.certificate, "key": authority.key})


def seal(context: Context, id: str, kept: Kept) -> bytes:
    """As it is kept with the sandbox. `Context.sealing` is held until it is."""
    return context.keyring.seal(kept.model_dump_json(), kept_context(id))


async def secret_grant(context: Context, row: SandboxRow) -> SecretGrant | None:
    """What its node is to be told now, with the values in the clear: only ever on its way there."""
    kept = _kept(context, row)
    if kept is None:
        return None
    rows = {each.name: each for each in await context.store.secrets.some(row.org, row.secrets)}
    return SecretGrant.model_validate(
        {
            "authority": kept.authority,
            "key": kept.key,
            "hosts": _hosts(kept),
            "secrets": [_granted(context, each, rows.get(each.name)) for each in kept.secrets],
            "headers": await _headers(context, row.org, kept.rules),
        }
    )


def enforced(context: Context, row: SandboxRow, policy: NetworkPolicy) -> NetworkPolicy:
    """The policy as the sandbox's node is told it: with its secrets' hosts led through the broker."""
    kept = _kept(context, row)
    return policy if kept is None else brokered(policy, _hosts(kept))


async def tell(context: Context, row: SandboxRow) -> None:
    """Give the node what the sandbox may use now. Raises `NodeUnavailable`; what is not there any more is passed
    over."""
    try:
        await give(context, await context.store.sandboxes.get(row.id) or row)
    except NodeUnavailable:
        raise
    except HutchError as error:
        log.info("secrets not given to the node", sandbox=row.id, error=str(error))


async def give(context: Context, row: SandboxRow) -> None:
    """Give the node what such a sandbox may use. Raises what the node says. Whoever does it, one after the other: what
    was read first must not arrive last, or a value stays in use that was replaced or deleted meanwhile."""
    async with context.telling(row.id):
        await context.node_of(row).set_secrets(row.id, await secret_grant(context, row))


def context_of(org: str, name: str) -> str:
    """Where a sealed value belongs."""
    return f"secrets:{org}:{name}"


def e2b_context(secret_id: str) -> str:
    """The same of one that was made through E2B's API."""
    return f"e2b_secrets:{secret_id}"


def kept_context(sandbox_id: str) -> str:
    """Where it belongs."""
    return f"sandboxes.secrets:{sandbox_id}"


def _kept(context: Context, row: SandboxRow) -> Kept | None:
    if row.sealed_secrets is None:
        return None
    try:
        return Kept.model_validate_json(context.keyring.unseal(row.sealed_secrets, kept_context(row.id)))
    except VaultError as error:
        log.error("the secrets of a sandbox cannot be opened", sandbox=row.id, error=str(error))
        return None


def _granted(context: Context, chosen: Chosen, row: SecretRow | None) -> GrantedSecret:
    """One that was deleted, or that is of the other kind by now, is for no host, and has no value."""
    plain = chosen.placeholder is None
    if row is None or (ENV in row.places) is not plain:
        return GrantedSecret.model_validate({"name": chosen.name, "placeholder": chosen.placeholder})
    return GrantedSecret.model_validate(
        {
            "name": chosen.name,
            "placeholder": chosen.placeholder,
            "value": _value(context, row),
            "hosts": [host for host in row.hosts if host in chosen.hosts],
            "places": row.places,
        }
    )


async def _headers(context: Context, org: str, rules: Sequence[HeaderRule]) -> list[GrantedHeaders]:
    wanted = {name for rule in rules for name in rule.secrets}
    rows = await context.store.e2b_secrets.named(org, wanted) if wanted else []
    values = {row.name: opened for row in rows if (opened := e2b_value(context, row)) is not None}
    return [_given(rule, values) for rule in rules]


def _given(rule: HeaderRule, values: Mapping[str, str]) -> GrantedHeaders:
    if missing := [name for name in rule.secrets if name not in values]:
        return GrantedHeaders(host=rule.host, headers={}, missing=missing)
    return GrantedHeaders.model_validate(
        {
            "host": rule.host,
            "headers": {name: filled(value, values) for name, value in rule.headers.items()},
            "secrets": {name: values[name] for name in rule.secrets},
            "tokens": rule.tokens,
        }
    )


def e2b_value(context: Context, row: E2bSecretRow) -> str | None:
    """None for one that no key opens: what refers to it is refused, as if there were none."""
    try:
        return context.keyring.unseal(row.sealed, e2b_context(row.id))
    except VaultError as error:
        log.error("a secret cannot be opened", secret=row.id, error=str(error))
        return None


def _value(context: Context, row: SecretRow) -> str:
    try:
        return context.keyring.unseal(row.sealed, context_of(row.org, row.name))
    except VaultError as error:
        hint = f"Its key is lost: set it again with `hutch secret set {row.name}`."
        raise InvalidRequest(f"the secret {row.name} cannot be opened", hint=hint, field="secrets") from error


def _hosts(kept: Kept) -> list[str]:
    ruled = [rule.host for rule in kept.rules]
    return list(dict.fromkeys([host for each in kept.secrets for host in each.hosts] + ruled))


def _names(kept: Kept) -> list[str]:
    """What its authority has to vouch for: these, and those below them."""
    return [parse_host(host).name for host in _hosts(kept)]


def _check_reachable(row: SecretRow, policy: NetworkPolicy) -> None:
    """A secret opens nothing: the policy has to let one of its hosts be reached."""
    hosts = list(map(parse_host, row.hosts))
    if not hosts or isinstance(policy, AllowAll) or any(_reaches(policy, host) for host in hosts):
        return
    raise InvalidRequest(
        f"the network policy lets none of the hosts of {row.name} be reached: {', '.join(row.hosts)}",
        hint=f"A secret opens nothing. Allow what it is for: `--network {row.hosts[0]}` (`network.allow`).",
        field="secrets",
        value=row.name,
    )


def _reaches(policy: NetworkPolicy, host: SecretHost) -> bool:
    if not isinstance(policy, NetworkRules):
        return False
    below = f".{host.name}"
    return policy.public or any(
        set(rule.ports) & set(host.ports)
        and (
            rule.covers(host.name)
            or (host.wildcard and (rule.covers(f"any{below}") or rule.name.endswith(below) or rule.name == host.name))
        )
        for rule in policy.names
    )
