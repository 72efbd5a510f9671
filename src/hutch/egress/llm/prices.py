"""What a call costs: the price table, from a TOML file that an operator can edit."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hutch.errors import InvalidRequest
from hutch.model import Model

_MILLION = 1_000_000


@dataclass(frozen=True)
class Tokens:
    """What one call used. `cache_write_1h` is part of `cache_write`, `reasoning` and `audio_output` of `output`,
    `audio_input` of `input`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    audio_input: int = 0
    audio_output: int = 0
    searches: int = 0
    """Searches of the web, which the provider made for the model."""
    tier: str = ""
    """The service tier or speed that the provider says it used."""
    region: str = ""
    """The region that it says it was bound to."""

    @property
    def prompt(self) -> int:
        """All that went in, cached or not."""
        return self.input + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        return self.prompt + self.output


class Rates(Model):
    """Dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cache_read: float | None = Field(None, ge=0)
    cache_write: float | None = Field(None, ge=0)
    cache_write_1h: float | None = Field(None, ge=0)
    audio_input: float | None = Field(None, ge=0)
    audio_output: float | None = Field(None, ge=0)

    def cost(self, used: Tokens) -> float:
        """Dollars for `used`, searches apart."""
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        write_1h = write if self.cache_write_1h is None else self.cache_write_1h
        heard = self.input if self.audio_input is None else self.audio_input
        spoken = self.output if self.audio_output is None else self.audio_output
        return (
            (used.input - used.audio_input) * self.input
            + used.audio_input * heard
            + (used.output - used.audio_output) * self.output
            + used.audio_output * spoken
            + used.cache_read * read
            + (used.cache_write - used.cache_write_1h) * write
            + used.cache_write_1h * write_1h
        ) / _MILLION


class LongPrompt(Rates):
    """The prices of a call with a long prompt."""

    over: int = Field(gt=0)


class Price(Rates):
    """One entry of the table."""

    web_search: float | None = Field(None, ge=0)
    long_prompt: LongPrompt | None = None
    tiers: dict[str, float] = {}
    regions: dict[str, float] = {}

    @property
    def covers_searches(self) -> bool:
        """Whether it is known what searches of the web cost; a model of one's own, whose tokens are free, has none."""
        return self.web_search is not None or not (self.input or self.output)

    def cost(self, used: Tokens) -> float:
        """Dollars for one call."""
        rates: Rates = self
        if self.long_prompt is not None and used.prompt > self.long_prompt.over:
            rates = self.long_prompt
        factor = self.tiers.get(used.tier, 1.0) * self.regions.get(used.region, 1.0)
        return Rates.cost(rates, used) * factor + used.searches * (self.web_search or 0.0) / 1000


class PriceTable:
    """Finds the price of a model by its name."""

    def __init__(self, models: dict[str, Price]) -> None:
        by_length = sorted(models.items(), key=lambda item: len(item[0].replace("*", "")), reverse=True)
        self._patterns = [(_pattern(name), price) for name, price in by_length]
        self._found: dict[str, Price | None] = {}

    @classmethod
    def load(cls, path: Path | None = None) -> PriceTable:
        """The table of `path`, or the built-in one. A table that cannot be read raises `InvalidRequest`."""
        if path is None:
            return _built_in()
        try:
            return cls.parse(path.read_text())
        except (OSError, ValueError, ValidationError, AttributeError, TypeError) as error:
            raise InvalidRequest(f"The price table {path} cannot be read: {error}", field="prices_file") from error

    @classmethod
    def parse(cls, text: str) -> PriceTable:
        """The table that is written there; whatever is wrong with it raises what pydantic, tomllib or Python do."""
        data: dict[str, Any] = tomllib.loads(text)
        factors = {name: data.get(name, {}) for name in ("tiers", "regions")}
        return cls({name: _price(entry, factors) for name, entry in data.get("models", {}).items()})

    def find(self, model: str) -> Price | None:
        """The price of `model`; None when no name of the table matches."""
        if model not in self._found:
            if len(self._found) > 1000:  # names come from a provider, and it may be anyone's
                self._found.clear()
            matches = (price for pattern, price in self._patterns if pattern.fullmatch(model))
            self._found[model] = next(matches, None)
        return self._found[model]


@cache
def _built_in() -> PriceTable:
    return PriceTable.parse((resources.files(__package__) / "prices.toml").read_text())


def _price(entry: dict[str, Any], factors: dict[str, dict[str, Any]]) -> Price:
    return Price.model_validate(entry | {name: found | entry.get(name, {}) for name, found in factors.items()})


def _pattern(name: str) -> re.Pattern[str]:
    """`*` is anything; a name also stands for its dated versions and its `-latest`, with or without a `[1m]`."""
    body = ".*".join(re.escape(part) for part in name.split("*"))
    return re.compile(body + r"(?:[-@](?:latest|\d{4}-?\d{2}-?\d{2}))?(?:\[\w+\])?")
