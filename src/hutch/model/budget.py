"""What one task may use, and what it has used."""

from __future__ import annotations

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
    usd: float = 0.0
    unpriced_tokens: int = Field(0, description="Tokens of models the price table does not know: in no dollar figure.")

    @property
    def tokens(self) -> int:
        """All tokens, the figure that `Budget.llm_tokens` limits."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


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
