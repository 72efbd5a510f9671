"""Usage as it is added up with every piece of every stream: `LlmUsage` would take ten times as long."""

from __future__ import annotations

from operator import add, sub
from typing import NamedTuple

from hutch.egress.llm.prices import Tokens
from hutch.model import LlmUsage


class Figures(NamedTuple):
    """The fields of `LlmUsage`; a difference of two may have any below nothing."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    usd: float = 0.0
    unpriced_tokens: int = 0

    @classmethod
    def of(cls, usage: LlmUsage) -> Figures:
        """Those of a model."""
        return cls(*(getattr(usage, name) for name in cls._fields))

    @classmethod
    def used(cls, tokens: Tokens, usd: float | None) -> Figures:
        """Of one call; without `usd` its model has no price."""
        return cls(
            0,
            tokens.input,
            tokens.output,
            tokens.cache_read,
            tokens.cache_write,
            tokens.cache_write_1h,
            tokens.reasoning,
            usd or 0.0,
            tokens.total if usd is None else 0,
        )

    @property
    def tokens(self) -> int:
        """All tokens."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens

    def plus(self, other: Figures) -> Figures:
        """Both together."""
        return Figures(*map(add, self, other))

    def minus(self, other: Figures) -> Figures:
        """What this is more."""
        return Figures(*map(sub, self, other))

    def usage(self) -> LlmUsage:
        """As a model; what rounding has left below nothing is nothing."""
        return LlmUsage(**{name: max(type(value)(), value) for name, value in zip(self._fields, self, strict=True)})


NONE = Figures()
