"""What one task may use, and what it has used."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from hutch.model.common import Model


class Budget(Model):
    """The limit of one task; an unset part is unlimited. At 80 % an event warns, at 100 % the task is stopped."""

    run_time: float | None = Field(None, gt=0, le=30 * 86400, description="Seconds from the start of the agent.")
    llm_usd: float | None = Field(None, gt=0, le=1_000_000, description="Dollars paid to the model provider.")
    llm_tokens: int | None = Field(None, gt=0, le=10**15, description="Input and output tokens together.")


class LlmUsage(Model):
    """Tokens and dollars, as counted by the node's LLM gateway from what the provider reports."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = Field(0, description="Of `cache_write_tokens`, those written for an hour.")
    reasoning_tokens: int = Field(0, description="Of `output_tokens`, what the model thought, where it is told.")
    usd: float = 0.0
    unpriced_tokens: int = Field(0, description="Tokens of models the price table does not know: in no dollar figure.")

    @property
    def tokens(self) -> int:
        """All tokens, the figure that `Budget.llm_tokens` limits."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


def plus(usage: LlmUsage, more: LlmUsage) -> LlmUsage:
    """Both together. What is taken away again, as an estimate that was too high, never leads below nothing."""
    sums = {name: getattr(usage, name) + getattr(more, name) for name in LlmUsage.model_fields}
    return LlmUsage.model_construct(**{name: max(type(value)(), value) for name, value in sums.items()})


def highest(usage: LlmUsage, other: LlmUsage) -> LlmUsage:
    """Of each figure the higher one."""
    fields = LlmUsage.model_fields
    return LlmUsage.model_construct(**{name: max(getattr(usage, name), getattr(other, name)) for name in fields})


class OrgBudget(Model):
    """The limits of an organisation: for all its tasks together, by calendar days and months in UTC. An unset part is
    unlimited."""

    day_usd: float | None = Field(None, ge=0, le=10_000_000, description="Dollars a day paid to model providers.")
    day_tokens: int | None = Field(None, ge=0, le=10**15, description="Input and output tokens together, a day.")
    month_usd: float | None = Field(None, ge=0, le=10_000_000, description="Dollars a month.")
    month_tokens: int | None = Field(None, ge=0, le=10**15, description="Tokens a month.")


class OrgSpending(Model):
    """What an organisation may spend on model providers, and what all its tasks have spent: today, and this month. At
    most a second behind."""

    budget: OrgBudget
    day: LlmUsage
    month: LlmUsage
    day_ends: datetime
    month_ends: datetime


class Usage(Model):
    """The meter of a sandbox or task."""

    run_time: float = Field(
        0.0, description="Seconds of wall time, without those in which it was paused or hibernated."
    )
    paused_time: float = Field(
        0.0, description="Seconds in which it was paused: no CPU, only storage for memory and disk."
    )
    hibernated_time: float = Field(0.0, description="Seconds in which it was hibernated: only storage for its disk.")
    stored_bytes: int = Field(
        0,
        description="What a paused or hibernated sandbox is made of now: the sizes of its snapshot's files together, "
        "before they are compressed and shared. Else 0.",
    )
    paused_byte_seconds: float = Field(0.0, description="`stored_bytes` times the seconds in which it was paused.")
    hibernated_byte_seconds: float = Field(
        0.0, description="`stored_bytes` times the seconds in which it was hibernated."
    )
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    llm: LlmUsage = LlmUsage()
