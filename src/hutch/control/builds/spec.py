"""What to build: where to begin, the steps, and what runs in the end."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, model_validator

from hutch.model import Model

FORMAT = 1
"""Raise it when the same steps lead to something else."""
MOST_STEPS = 500
_ARGUMENTS = {"RUN": (1, 2), "COPY": (2, 4), "ENV": (2, 2000), "WORKDIR": (1, 1), "USER": (1, 1)}


class Step(Model):
    """One instruction, with the arguments that E2B's clients give it."""

    type: Literal["RUN", "COPY", "ENV", "WORKDIR", "USER"]
    args: list[str]
    files: str | None = Field(None, pattern=r"^[0-9A-Za-z]{1,128}$", description="What COPY copies: the client's hash.")
    force: bool = False

    @model_validator(mode="after")
    def _check(self) -> Step:
        least, most = _ARGUMENTS[self.type]
        if not least <= len(self.args) <= most or (self.type == "ENV" and len(self.args) % 2):
            raise ValueError(f"{self.type} has {len(self.args)} arguments")
        if any("\0" in each for each in self.args):
            raise ValueError(f"{self.type} has an argument with a NUL in it")
        if self.type == "COPY" and self.files is None:
            raise ValueError("COPY needs a `filesHash`")
        return self

    @property
    def text(self) -> str:
        """For logs and errors, on one line."""
        words = self.args[:2] if self.type == "COPY" else self.args[:1] if self.type == "RUN" else self.args
        line = " ".join(f"{self.type} {' '.join(words)}".split())
        return line if len(line) <= 200 else line[:199] + "…"


class BuildSpec(Model):
    """One of `image` and `template` is set."""

    image: str | None = Field(None, min_length=1, max_length=512)
    template: str | None = Field(None, min_length=1, max_length=256)
    steps: list[Step] = Field([], max_length=MOST_STEPS)
    start: str | None = Field(None, max_length=64 << 10)
    ready: str | None = Field(None, max_length=64 << 10)
    force: bool = False

    @model_validator(mode="after")
    def _check(self) -> BuildSpec:
        if (self.image is None) == (self.template is None):
            raise ValueError("a template begins with an image or with another template: one of the two")
        return self


class Context(Model):
    """What a step is run with, and all later ones until it is changed."""

    user: str
    workdir: str
    env: dict[str, str] = {}


def step_keys(org: str, base: str, steps: list[Step], digests: dict[str, str]) -> list[str]:
    """Of the state after each step: a hash over all that has led to it. `base`: what it begins with; `digests`: of the
    files that are copied, by the client's hash. What one organisation's steps have led to is never another's."""
    keys = []
    total = _hash([FORMAT, org, base])
    for step in steps:
        files = digests[step.files] if step.files is not None else None
        total = _hash([total, step.type, step.args, files])
        keys.append(total)
    return keys


def digest(content: Any) -> str:
    """Of anything that JSON can say."""
    return _hash(content)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
