"""In what forms a value goes out, and may come back."""

from __future__ import annotations

import base64
from collections.abc import Set
from urllib.parse import quote_from_bytes

_SURE = 12
"""Characters of Base64 that are not there by chance."""


def forms_of(value: bytes, places: Set[str]) -> tuple[bytes, ...]:
    """The value itself, and others where it is sent in them: what stands in the middle of `user:value` in Base64,
    whatever the user is called, and what is quoted in a query."""
    forms = [value]
    if "basic" in places:
        forms += [core for before in range(3) if len(core := _core(value, before)) >= _SURE]
    if any(place.startswith("query:") for place in places):
        forms.append(quote_from_bytes(value, safe="").encode())
    return tuple(dict.fromkeys(forms))


def _core(value: bytes, before: int) -> bytes:
    """The characters of Base64 that say nothing but the value, behind so many bytes (modulo 3) of something else."""
    encoded = base64.b64encode(bytes(before) + value + bytes(2))
    return encoded[(0, 2, 3)[before] : (before + len(value)) * 8 // 6]
