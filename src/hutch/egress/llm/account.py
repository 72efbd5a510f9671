"""What one sandbox has used of its LLM grant: the count, the budgets, and its way into the node's journal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import structlog

from hutch.egress.llm.entry import Entry, open_figures
from hutch.egress.llm.figures import NONE, Figures
from hutch.egress.llm.gate import Gate
from hutch.egress.llm.ledger import Bound, Ledger
from hutch.egress.llm.organisation import Organisation
from hutch.egress.llm.prices import Price, PriceTable, Tokens
from hutch.egress.llm.purse import NOTHING, Cost, Purse
from hutch.egress.llm.refused import Refused
from hutch.model import LlmGrant, LlmUsage
from hutch.model.budget import highest

JournalKind = Literal["llm_usage", "llm_auth_failed", "llm_budget_exceeded", "llm_org_usage"]
Journal = Callable[[str, JournalKind, dict[str, Any]], Awaitable[None]]
"""Writes one entry (sandbox, kind, data) so that it lasts; returns when it does."""

STEP = 1000
"""Tokens of output that a stream may be ahead of what the ledger knows."""
_PATIENCE = 30.0
"""Seconds that a call waits for what others have staked, before it is told to come again."""
_LOOK_EVERY = 0.05

log = structlog.get_logger(__name__)


class Account:
    """The count of one sandbox, shared by all its calls at once. Only the event loop's thread touches it."""

    def __init__(self, sandbox: str, prices: PriceTable, journal: Journal, ledger: Ledger) -> None:
        self.sandbox = sandbox
        self.grant: LlmGrant | None = None
        self.address: str | None = None
        self.gate = Gate()
        """Which knows the calls under way, and can hold the next ones."""
        self.org: Organisation | None = None
        self._prices = prices
        self._journal = journal
        self._ledger = ledger
        self._total = NONE
        self._purse = Purse(("llm_usd", "llm_tokens"))
        self._open: set[Entry] = set()
        self._model: str | None = None
        self._unwritten = False
        self._exceeded_written = False
        self._auth_failed_written = False
        self._writing = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def usage(self) -> LlmUsage:
        """The running total."""
        return self._total.usage()

    @property
    def told(self) -> bool:
        """Whether all of it is in the journal."""
        return not self._unwritten

    def restore(self, usage: LlmUsage) -> None:
        """Starts from a total that an earlier gateway has left."""
        self._total = Figures.of(highest(usage, self.usage))
        self._purse.spent = Cost(self._total.usd, self._total.tokens)
        self._unwritten = self.usage != usage

    def regrant(self, grant: LlmGrant | None, org: Organisation | None = None) -> None:
        """Puts another grant in the place of the one in force; the count goes on."""
        before = self.grant
        self.grant, self.org = grant, org
        self._purse.max_usd = grant.max_usd if grant else None
        self._purse.max_tokens = grant.max_tokens if grant else None
        if before is None or grant is None or before.key != grant.key:
            self._auth_failed_written = False
        if self.exceeded is None:
            self._exceeded_written = False

    @property
    def exceeded(self) -> dict[str, Any] | None:
        """The part of a budget that is used up, with the figures; None while there is some left."""
        if self.grant is None:
            return None
        return next((found for purse in self._purses() if (found := purse.exceeded()) is not None), None)

    @property
    def in_dollars(self) -> bool:
        """Whether a budget in dollars is in force: then all that a call costs has to be counted."""
        return self._purse.max_usd is not None or (self.org is not None and self.org.in_dollars)

    # ---- calls ----

    async def admit(self, entry: Entry, most: Tokens, *, watched: bool = False) -> None:
        """Lets a call begin that uses so much at most, as soon as every budget has room for it; then that is in the
        ledger. `watched`: it is a stream, and cut where a budget ends. Raises `Refused` where others have what is left
        for too long; when a budget is used up, it does not begin."""
        price = self.price(entry, None)
        entry.most = Cost(price.cost(most) if price else 0.0, most.total)
        entry.unsaid = Cost(price.cost(Tokens(input=most.input)) if price else 0.0, most.input)
        until = time.monotonic() + _PATIENCE
        while not all(purse.has_room(entry.most) for purse in self._purses()):
            if self.exceeded is not None:
                return  # the caller looks at it
            if time.monotonic() > until:
                raise Refused(429, "What is left of a budget is in use by other calls. Try again in a moment.")
            await asyncio.sleep(_LOOK_EVERY)
        if self.exceeded is not None:
            return
        entry.purses, entry.org = self._purses(), self.org
        entry.watched, entry.stake = watched, entry.unsaid if watched else entry.most
        for purse in entry.purses:
            purse.enter(entry.stake)
        self._open.add(entry)
        if entry.org is not None:
            entry.org.open.add(entry)
        try:
            self.secure()
        except OSError as error:
            self.leave(entry)
            log.error("llm ledger cannot be written", sandbox=self.sandbox, error=describe(error))
            raise Refused(503, "The node cannot write down what this call may cost. Try again.") from error

    def count_request(self, entry: Entry) -> None:
        """The call went to the provider."""
        self._add(Figures(requests=1), entry.org)

    def count(self, entry: Entry, now: Tokens, model: str | None) -> None:
        """The call of `entry` has now used `now` in all."""
        price = self.price(entry, model)
        figures = Figures.used(now, price.cost(now) if price is not None else None)
        before, cost = entry.figures, entry.cost
        entry.model = model or entry.model
        entry.tokens, entry.figures = now, figures
        self._model = model or entry.asked_model or self._model
        self._move(entry, entry.cost - cost)
        self._add(figures.minus(before), entry.org)

    def outgrown(self, entry: Entry) -> bool:
        """Whether the call has come to more than the ledger knows. Then `expect` and `secure` have to come before
        anything else."""
        cost = entry.cost + entry.unsaid
        return cost.tokens > entry.most.tokens or cost.usd > entry.most.usd + 1e-9

    def expect(self, entry: Entry) -> None:
        """From here on the stream may use a step more than it has: more or less than was thought at its beginning."""
        price = self.price(entry, None)
        step = Cost(price.cost(Tokens(output=STEP)) if price else 0.0, STEP)
        entry.most = entry.cost + entry.unsaid + step
        self._move(entry, NOTHING)

    def squeezed(self, entry: Entry) -> bool:
        """Whether all that is left of a budget is staked by other calls."""
        return any(purse.is_others(entry.stake) for purse in entry.purses)

    def leave(self, entry: Entry) -> None:
        """The call has ended, and uses no more."""
        for purse in entry.purses:
            purse.leave(entry.stake)
        entry.purses = ()
        self._open.discard(entry)
        if entry.org is not None:
            entry.org.open.discard(entry)
        try:
            self.secure()  # what it has not used is free again
        except OSError as error:
            log.error("llm ledger cannot be written", sandbox=self.sandbox, error=describe(error))

    def price(self, entry: Entry, model: str | None = None) -> Price | None:
        """Of the model that the provider says has answered, else of the one that was asked for."""
        names = [name for name in (model, entry.model, entry.asked_model) if name] or [""]
        return next((price for name in names if (price := self._prices.find(name)) is not None), None)

    def _move(self, entry: Entry, spent: Cost) -> None:
        """Tells the purses; a call that was never let in has only the sandbox's."""
        stake = entry.unsaid if entry.watched else entry.most.beyond(entry.cost)
        stake = stake if entry.purses else NOTHING
        for purse in entry.purses or (self._purse,):
            purse.move(spent, stake - entry.stake)
        entry.stake = stake

    def _purses(self) -> tuple[Purse, ...]:
        if self.org is None:
            return (self._purse,)
        self.org.turn()
        return (self._purse, self.org.day, self.org.month)

    def _add(self, more: Figures, org: Organisation | None) -> None:
        self._total = self._total.plus(more)
        if org is not None:
            org.add(more)
        self._unwritten = True

    # ---- what lasts ----

    def secure(self) -> None:
        """Writes into the ledger how much may have been used at most. Raises `OSError`."""
        bounds = [Bound(self.sandbox, "", self._total.plus(open_figures(self._open)).usage())]
        self._ledger.write(bounds + (self.org.bounds() if self.org is not None else []))

    async def write(self) -> None:
        """Journals the total, and that a budget is used up, if that is not there yet. A journal that fails is logged
        and tried again a second later: the model's answer is not lost for it."""
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
            data = {"usage": self.usage.model_dump(mode="json"), "model": self._model}
            await self._journal(self.sandbox, "llm_usage", data)
            self.secure()
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
