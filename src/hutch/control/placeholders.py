"""What a sandbox has in the place of a secret: random, and of the same shape, as some programs look at that."""

from __future__ import annotations

import re
import secrets
import string

LEAST = 20
"""Random characters, however short the value is: what is random in fewer could be found by chance."""

_PREFIXES = re.compile(
    r"gh[opsur]_|github_pat_|glpat-|sk-ant-[a-z0-9]+-|sk-proj-|sk-|[prs]k_(?:live|test)_|xox[abeoprs]-|npm_|pypi-|hf_"
    r"|AKIA|ASIA|ya29\.|eyJ|dop_v1_|shpat_|SG\.|hvs\.|key-|lin_api_|hk_"
)
"""How tokens of known kinds begin: that tells nothing of one. Of any other nothing is kept."""
_KEPT = "-_."


def new_placeholder(value: str) -> str:
    """Another one with each call. Letters, digits and separators stand where they stand in the value."""
    found = _PREFIXES.match(value)
    prefix = found[0] if found is not None and len(value) - found.end() >= LEAST else ""
    rest = value[len(prefix) :]
    padding = len(rest) - len(rest.rstrip("="))
    drawn = [_draw(each) for each in rest[: len(rest) - padding]]
    random = sum(each not in _KEPT for each in drawn)
    drawn += [secrets.choice(string.ascii_letters + string.digits) for _ in range(LEAST - random)]
    return prefix + "".join(drawn) + "=" * padding


def _draw(like: str) -> str:
    if like in _KEPT:
        return like
    for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
        if like in kind:
            return secrets.choice(kind)
    return secrets.choice(string.ascii_letters)
