"""Named policies: the built-in ones, and how names become rules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from hutch.errors import InvalidPolicy
from hutch.model.network import MAX_RULES, POLICY_NAME, AllowAll, DenyAll, NetworkPolicy, NetworkRules

_PACKAGES = (
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "proxy.golang.org",
    "sum.golang.org",
    "rubygems.org",
    "index.rubygems.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
)
_OPEN_SOURCE = (
    *_PACKAGES,
    "github.com",
    "api.github.com",
    "codeload.github.com",
    "raw.githubusercontent.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "gitlab.com",
    "bitbucket.org",
    "codeberg.org",
    "docs.python.org",
    "docs.rs",
    "pkg.go.dev",
)

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "air-gapped": (),
    "packages": _PACKAGES,
    "open-source": _OPEN_SOURCE,
}
"""What each allows."""


PolicyT = TypeVar("PolicyT", bound=NetworkPolicy)
WORDS = frozenset(("public",))
"""What could be the name of a policy, and is said for a mode."""


def said(network: NetworkPolicy | str | Sequence[str]) -> NetworkPolicy:
    """A policy as people write it in one word or a few: `deny_all`, `allow_all`, `public` (the same, with names
    in the egress log), or rules and names of policies. Raises
    `InvalidPolicy`."""
    if isinstance(network, DenyAll | AllowAll | NetworkRules):
        return network
    words = [network] if isinstance(network, str) else list(network)
    if words == ["deny_all"]:
        return DenyAll()
    if words == ["allow_all"]:
        return AllowAll()
    if words == ["public"]:
        return NetworkRules(public=True)
    named = [word for word in words if re.fullmatch(POLICY_NAME, word)]
    return NetworkRules(allow=[word for word in words if word not in named], policies=named)


def expanded(policy: PolicyT, own: Mapping[str, Sequence[str]] | None = None) -> PolicyT:
    """The policy with the rules of the named ones that it has; `own` are the organisation's, and go before built-in
    ones of their names: those came later. Raises `InvalidPolicy`."""
    if not isinstance(policy, NetworkRules) or not policy.policies:
        return policy
    rules = together(policy.allow, policy.policies, own or {})
    if len(rules) > MAX_RULES:
        raise InvalidPolicy(f"{len(rules)} rules, with those of its policies: at most {MAX_RULES}", field="network")
    return policy.model_copy(update={"allow": rules})


def together(allow: Sequence[str], names: Sequence[str], own: Mapping[str, Sequence[str]]) -> list[str]:
    """These rules and those of the named policies, each once. Raises `InvalidPolicy`."""
    known: dict[str, Sequence[str]] = {**BUILT_IN, **own}
    for name in names:
        if name not in known:
            raise InvalidPolicy(
                f"there is no policy {name}",
                hint=f"There are: {', '.join(sorted(known))}.",
                field="network.policies",
                value=name,
            )
    return list(dict.fromkeys([*allow, *(rule for name in names for rule in known[name])]))
