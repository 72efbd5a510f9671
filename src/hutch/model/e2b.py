"""Hutch's ids and keys in the forms that E2B's clients accept, and back. Both ways are exact: nothing is stored.

E2B's sandbox ids are part of host names (`8080-<id>.example.org`), so they have no `_`; some of its clients insist on
keys that are `e2b_` and hexadecimal digits.
"""

from __future__ import annotations

import re

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_ID, _SECRET = 22, 52
_DIGITS = 93
"""Hexadecimal digits for the 5 * 74 bits of a key."""
_SANDBOX = re.compile(r"i([a-z2-7]{22})")
_KEY = re.compile(rf"e2b_([0-9a-f]{{{_DIGITS}}})")
_HUTCH_KEY = re.compile(rf"hk_([a-z2-7]{{{_ID}}})_([a-z2-7]{{{_SECRET}}})")


def e2b_sandbox_id(sandbox_id: str) -> str:
    """`sbx_abc...` as E2B's clients see it: `iabc...`."""
    return "i" + sandbox_id.removeprefix("sbx_")


def hutch_sandbox_id(text: str) -> str | None:
    """The sandbox that E2B's clients mean; None when it cannot be an id. Our own form is understood too."""
    match = _SANDBOX.fullmatch(text.partition("-")[0])  # the oldest clients append what the API calls `clientID`
    if match is not None:
        return f"sbx_{match[1]}"
    return text if text.startswith("sbx_") and _SANDBOX.fullmatch("i" + text[4:]) else None


def e2b_key(key: str) -> str | None:
    """An API key of Hutch (`hk_<id>_<secret>`) as an E2B client takes it; None when it is no key."""
    match = _HUTCH_KEY.fullmatch(key)
    if match is None:
        return None
    number = 0
    for letter in match[1] + match[2]:
        number = number << 5 | _VALUES[letter]
    return f"e2b_{number:0{_DIGITS}x}"


def hutch_key(key: str) -> str:
    """The key of Hutch that an E2B client's key is; any other text as it is."""
    match = _KEY.fullmatch(key)
    number = int(match[1], 16) if match is not None else -1
    if number < 0 or number >> 5 * (_ID + _SECRET):
        return key
    letters = "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(_ID + _SECRET)))
    return f"hk_{letters[:_ID]}_{letters[_ID:]}"
