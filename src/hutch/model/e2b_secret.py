"""Secrets as E2B's API has them: names in small letters, values that no call tells, and metadata."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from hutch.errors import InvalidRequest
from hutch.model.common import Model
from hutch.model.secret import check_value

_UNFIT = re.compile(r"[{}\x00-\x1f\x7f-\x9f]")
_PREFIX = "sec_"
_LONGEST_NAME = 128
_MOST, _LONGEST_KEY, _LONGEST_VALUE, _LONGEST = 32, 128, 1024, 8192
"""Of metadata: entries, and bytes."""


def _name(text: str) -> str:
    name = text.lower()
    if not 1 <= len(name) <= _LONGEST_NAME or _UNFIT.search(name) or name.startswith(_PREFIX):
        raise InvalidRequest(
            f"name: 1 to {_LONGEST_NAME} characters without braces and control characters, not beginning with {_PREFIX}"
        )
    return name


def _value(value: SecretStr) -> SecretStr:
    check_value(value.get_secret_value(), plain=False)
    return value


def _metadata(given: dict[str, str]) -> dict[str, str]:
    sizes = [(len(key.encode()), len(value.encode())) for key, value in given.items()]
    if (
        len(sizes) > _MOST
        or any(key > _LONGEST_KEY or value > _LONGEST_VALUE for key, value in sizes)
        or sum(map(sum, sizes)) > _LONGEST
    ):
        raise InvalidRequest(
            f"metadata: at most {_MOST} entries, keys of {_LONGEST_KEY} bytes, values of {_LONGEST_VALUE}, "
            f"and {_LONGEST} together"
        )
    return given


Value = Annotated[SecretStr, AfterValidator(_value)]
Metadata = Annotated[dict[str, str], AfterValidator(_metadata)]


class NewE2bSecret(Model):
    """A new one."""

    name: Annotated[str, AfterValidator(_name)]
    value: Value
    metadata: Metadata = {}


class UpdateE2bSecret(Model):
    """Its next version."""

    value: Value
    metadata: Metadata | None = Field(None, description="None: it stays.")


class E2bSecret(Model):
    """Without its value."""

    id: str
    name: str
    version: int
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
