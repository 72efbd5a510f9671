"""Named policies of an organisation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from hutch.errors import InvalidPolicy
from hutch.model.common import Model
from hutch.model.network import MAX_RULES
from hutch.model.policies import BUILT_IN, WORDS
from hutch.model.rules import parse_rule

MAX_POLICIES = 100
"""Of one organisation."""


def _canonical(text: str) -> str:
    return parse_rule(text, field="allow").text


class PutPolicy(Model):
    """`PUT /v1/policies/{name}`."""

    allow: list[Annotated[str, AfterValidator(_canonical)]] = Field(
        max_length=MAX_RULES, description="Rules, as in `network.allow` of a sandbox. None: it allows nothing."
    )


class NamedPolicy(Model):
    """Rules under a name, for `network.policies`."""

    name: str
    allow: list[str]
    built_in: bool = Field(False, description="Part of Hutch: it cannot be changed.")
    created_at: datetime | None = None
    updated_at: datetime | None = None
    sandboxes: int = Field(0, description="How many that have not ended stand on it.")
    pending: int = Field(
        0, description="Of these, those whose node has yet to be told of its rules as they are: it did not answer."
    )


def check_own_name(name: str) -> None:
    """Raises `InvalidPolicy` for a name that an organisation's policy cannot have."""
    if name in BUILT_IN:
        hint = f"Choose another; a sandbox may have several: `--network {name} --network NAME`."
        raise InvalidPolicy(f"the policy {name} is built in, and stays as it is", hint=hint, field="name", value=name)
    if name in WORDS:
        hint = "Choose another name."
        raise InvalidPolicy(f"{name} is said for a mode, and names no policy", hint=hint, field="name", value=name)
