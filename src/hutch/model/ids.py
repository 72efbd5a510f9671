"""Identifiers: a prefix that names the noun, and 22 base32 characters (110 random bits)."""

from __future__ import annotations

import re
import secrets
from typing import Literal

Prefix = Literal["sbx", "tsk", "exe", "upl", "key", "org", "evt", "snp", "tpl", "wrm", "vol", "sec"]

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PATTERN = re.compile(r"^[a-z]{3}_[a-z2-7]{22}$")


def new_id(prefix: Prefix) -> str:
    """A new random id such as `sbx_k3v...`."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def is_id(text: str, prefix: Prefix) -> bool:
    """Whether `text` has the form of an id of this noun."""
    return text.startswith(prefix + "_") and _PATTERN.match(text) is not None
