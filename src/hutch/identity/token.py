"""The form of an API key: `hk_<id>_<secret>`, both parts base32 in small letters.

The secret has 256 random bits, so nothing can be gained by trying, and one round of SHA-256 is enough to store it:
slow hashes (bcrypt, scrypt) are for what people think up. A fast hash is also what lets each call be checked.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_PATTERN = re.compile(r"hk_([a-z2-7]{22})_([a-z2-7]{52})")
_SHOWN = 11


@dataclass(frozen=True)
class Token:
    """A key in the clear. It is shown once, to the one who asked for it."""

    key_id: str
    text: str

    def __repr__(self) -> str:
        return f"Token({self.key_id})"  # never the secret, wherever it is printed

    @property
    def prefix(self) -> str:
        """What may be shown of it later."""
        return self.text[:_SHOWN]

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def new_token() -> Token:
    """A new random key."""
    name, secret = ("".join(secrets.choice(_ALPHABET) for _ in range(length)) for length in (22, 52))
    return Token(f"key_{name}", f"hk_{name}_{secret}")


def parse_token(text: str) -> Token | None:
    """The key that `text` is, None when it has not the form of one."""
    match = _PATTERN.fullmatch(text)
    return Token(f"key_{match[1]}", text) if match else None
