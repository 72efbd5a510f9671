"""What one sandbox has used of its LLM grant: the count, the budget, and its way into the node's journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from hutch.egress.gate import Gate
from hutch.egress.prices import PriceTable, Tokens
from hutch.model import LlmGrant, LlmUsage

JournalKind = Literal["llm_usage", "llm_auth_failed", "llm_budget_exceeded"]
Journal = Callable[[str, JournalKind, dict[str, Any]], Awaitable[None]]
"""Writes one entry (sandbox, kind, data) so that it lasts; returns when it does."""

log = structlog.get_logger(__name__)


@dataclass
class Entry:
    """What one call has added to the total so far."""

    tokens: Tokens = field(default_factory=Tokens)
    usd: float = 0.0
    unpriced: int = 0


class Account:
    """The count of one sandbox, shared by all its calls at once. Only the event loop's thread touches it."""

    def __init__(self, sandbox: str, prices: PriceTable, journal: Journal) -> None:
        self.sandbox = sandbox
        self.grant: LlmGrant | None = None
        self.address: str | None = None
        self.gate = Gate()
        """Which knows the calls under way, and can hold the next ones."""
        self._prices = prices
        self._journal = journal
        self._total = LlmUsage()
        self._model: str | None = None
        self._unwritten = False
        self._exceeded_written = False
        self._auth_failed_written = False
        self._writing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def usage(self) -> LlmUsage:
        """The running total."""
        return self._total

    def restore(self, usage: LlmUsage) -> None:
        """Starts from a total that an earlier daemon has journaled."""
        self._total = usage

    def regrant(self, grant: LlmGrant | None) -> None:
        """Puts another grant in the place of the one in force; the count goes on."""
        before = self.grant
        self.grant = grant
        if before is None or grant is None or before.key != grant.key:
            self._auth_failed_written = False
        if self.exceeded is None:
            self._exceeded_written = False

    @property
    def exceeded(self) -> dict[str, Any] | None:
        """The part of the budget that is used up, with the figures; None while there is some left."""
        if self.grant is None:
            return None
        used = self._total
        if self.grant.max_usd is not None and used.usd >= self.grant.max_usd:
            return {"part": "llm_usd", "used": round(used.usd, 6), "limit": self.grant.max_usd}
        if self.grant.max_tokens is not None and used.tokens >= self.grant.max_tokens:
            return {"part": "llm_tokens", "used": used.tokens, "limit": self.grant.max_tokens}
        return None

    def count_request(self) -> None:
        """One more call went to the provider."""
        self._total = self._total.model_copy(update={"requests": self._total.requests + 1})
        self._unwritten = True

    def count(self, entry: Entry, now: Tokens, model: str | None) -> None:
        """The call of `entry` has now used `now` in all."""
        price = self._prices.find(model) if model else None
        usd, unpriced = (0.0, now.total) if price is None else (price.cost(now), 0)
        before, total = entry.tokens, self._total
        self._total = total.model_copy(
            update={
                "input_tokens": total.input_tokens + now.input - before.input,
                "output_tokens": total.output_tokens + now.output - before.output,
                "cache_read_tokens": total.cache_read_tokens + now.cache_read - before.cache_read,
                "cache_write_tokens": total.cache_write_tokens + now.cache_write - before.cache_write,
                "usd": max(0.0, total.usd + usd - entry.usd),
                "unpriced_tokens": total.unpriced_tokens + unpriced - entry.unpriced,
            }
        )
        entry.tokens, entry.usd, entry.unpriced = now, usd, unpriced
        self._model = model or self._model
        self._unwritten = True

    async def write(self) -> None:
        """Journals the total, and that the budget is used up, if that is not there yet. A journal that fails is
        logged and tried again a second later: the model's answer is not lost for it."""
        async with self._writing:
            try:
                await self._write()
            except Exception as error:
                self._unwritten = True
                log.error("llm usage could not be journaled", sandbox=self.sandbox, error=describe(error))

    def write_soon(self) -> None:
        """`write` without waiting, where waiting would delay an answer."""
        task = asyncio.create_task(self.write())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _write(self) -> None:
        if self._unwritten:
            self._unwritten = False
            data = {"usage": self._total.model_dump(mode="json"), "model": self._model}
            await self._journal(self.sandbox, "llm_usage", data)
        exceeded = self.exceeded
        if exceeded is not None and not self._exceeded_written:
            await self._journal(self.sandbox, "llm_budget_exceeded", exceeded)
            self._exceeded_written = True

    async def write_auth_failure(self, status: int, message: str) -> None:
        """Journals, once a key, that the provider refused it."""
        if self._auth_failed_written or self.grant is None:
            return
        self._auth_failed_written = True
        data = {"provider": self.grant.provider, "status": status, "message": message}
        try:
            await self._journal(self.sandbox, "llm_auth_failed", data)
        except Exception as error:
            self._auth_failed_written = False
            log.error("a refused llm key could not be journaled", sandbox=self.sandbox, error=describe(error))


def describe(error: BaseException) -> str:
    """An error for the log. Never a traceback: the variables in one may hold a key."""
    return f"{type(error).__name__}: {error}"
