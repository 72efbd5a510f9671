"""Budgets of organisations and tasks in the gateway: enforced while streaming, shared, and not forgotten in a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hutch.demo.scripted_model import ScriptedModel
from hutch.egress.llm import account as account_module
from hutch.egress.llm.entry import Entry
from hutch.egress.llm.gateway import LlmGateway
from hutch.egress.llm.ledger import Ledger
from hutch.egress.llm.organisation import Organisation
from hutch.egress.llm.prices import Tokens
from hutch.model import LlmGrant, LlmUsage, OrgBudget

PLACEHOLDER = "hutch-placeholder"
MODEL = "claude-opus-5-5"
A, B = ("sbx_a", "127.0.0.1"), ("sbx_b", "127.0.0.2")


class Journal(list[tuple[str, str, dict[str, Any]]]):
    async def __call__(self, *entry: Any) -> None:
        self.append(entry)

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        return [data for _, found, data in self if found == kind]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    made = ScriptedModel()
    made.url = await made.start()  # type: ignore[attr-defined]
    yield made
    await made.stop()


@asynccontextmanager
async def gateway(model: Any, journal: Journal, ledger: Path | None = None) -> AsyncIterator[tuple[LlmGateway, str]]:
    made = LlmGateway(
        journal, base_urls={"anthropic": model.url, "openai": f"{model.url}/v1"}, ledger=ledger, host="127.0.0.1"
    )
    port = await made.start()
    try:
        yield made, f"http://127.0.0.1:{port}"
    finally:
        await made.stop()


def grant(made: LlmGateway, who: tuple[str, str], provider: str = "anthropic", **limits: Any) -> None:
    fields: dict[str, Any] = {"provider": provider, "key": "sk-x", "placeholder": PLACEHOLDER, "org": "org_1"}
    made.grant(*who, LlmGrant.model_validate(fields | limits))


async def ask(url: str, prompt: str, address: str = "127.0.0.1", stream: bool = True, **more: Any) -> tuple[int, str]:
    body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": prompt}]} | more
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with (
        aiohttp.ClientSession(connector=connector, headers={"x-api-key": PLACEHOLDER}) as client,
        client.post(f"{url}/anthropic/v1/messages", json=body) as answer,
    ):
        return answer.status, await answer.text()


LONG = "[model chunks=1000][model slow=0.001][model input_tokens=10][model say=" + "words " * 1000 + "]"


async def test_an_organisations_budget_cuts_the_streams_of_all_its_sandboxes(model: ScriptedModel) -> None:
    journal = Journal()
    async with gateway(model, journal) as (made, url):
        made.set_budgets({"org_1": OrgBudget(day_tokens=5000, month_usd=1000.0)})
        grant(made, A)
        grant(made, B)
        said = await asyncio.gather(
            ask(url, LONG, A[1]), ask(url, LONG, B[1]), ask(url, LONG, A[1]), ask(url, LONG, B[1])
        )
        assert all("budget of this organisation for this day is used up: 5000 tokens" in text for _, text in said)
        status, text = await ask(url, "hi", B[1])
        assert status == 403 and "organisation" in text
        both = [made.usage(id) for id, _ in (A, B)]
        assert all(used is not None and used.tokens > 250 for used in both)
        assert 5000 <= sum(used.tokens for used in both if used) < 5500, "no more than a chunk of each too much"
        exceeded = {sandbox: data["part"] for sandbox, kind, data in journal if kind == "llm_budget_exceeded"}
        assert exceeded == {"sbx_a": "org_day_tokens", "sbx_b": "org_day_tokens"}
        made.set_budgets({"org_1": OrgBudget(day_tokens=8000)})
        assert (await ask(url, "hi", B[1]))[0] == 200, "a higher limit is in force at once"
        made.set_budgets({})
    told = journal.kinds("llm_org_usage")[-1]
    assert told["org"] == "org_1" and told["usage"]["requests"] == 5
    assert told["usage"]["output_tokens"] + told["usage"]["input_tokens"] > 5000


async def test_two_calls_cannot_both_take_the_last_dollar(
    model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may cost 20 cents, and a dollar and ten cents are there: five of ten are let in at once."""
    monkeypatch.setattr(account_module, "_PATIENCE", 0.3)
    async with gateway(model, Journal()) as (made, url):
        made.set_budgets({"org_1": OrgBudget(day_usd=1.1)})
        grant(made, A)
        grant(made, B)
        prompt = "[model stall=1.5][model tokens=10000][model input_tokens=0]"
        calls = (ask(url, prompt, who[1], stream=False, max_tokens=10_000) for who in (A, B) * 5)
        statuses = sorted(status for status, _ in await asyncio.gather(*calls))
        assert statuses == [200] * 5 + [429] * 5, "and these are told to come again"
        org = made._orgs["org_1"]
        assert org.day.spent.usd == pytest.approx(1.0) and org.day.calls == 0
        # the last one is alone with 10 cents, and is let in, once
        assert (await ask(url, prompt.replace("1.5", "0"), stream=False, max_tokens=10_000))[0] == 200
        assert (await ask(url, prompt, stream=False, max_tokens=10_000))[0] == 403
        assert org.day.spent.usd == pytest.approx(1.2)


async def test_a_call_that_waits_for_room_goes_when_there_is_some(model: ScriptedModel) -> None:
    async with gateway(model, Journal()) as (made, url):
        grant(made, A, max_tokens=5000)
        prompt = "[model stall=0.3][model tokens=10][model input_tokens=0]"
        said = await asyncio.gather(*(ask(url, prompt, stream=False, max_tokens=3000) for _ in range(3)))
        assert [status for status, _ in said] == [200] * 3


async def test_a_budget_in_dollars_wants_a_price(model: ScriptedModel) -> None:
    async with gateway(model, Journal()) as (made, url):
        made.set_budgets({"org_1": OrgBudget(month_usd=5)})
        grant(made, A)
        status, text = await ask(url, "hi", model="house-blend")
        assert status == 403 and "house-blend has no price" in text
        made.set_budgets({"org_1": OrgBudget(month_tokens=5000)})
        assert (await ask(url, "hi", model="house-blend"))[0] == 200


def _copy(path: Path) -> Path:
    """What a gateway that was killed now would have left."""
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("stream", [True, False])
async def test_a_killed_gateway_counts_what_was_under_way(model: ScriptedModel, tmp_path: Path, stream: bool) -> None:
    """The second gateway finds what the first one, which writes nothing from then on, has left in its ledger."""
    path = tmp_path / "ledger"
    prompt = "[model tokens=800][model input_tokens=100]"
    async with gateway(model, Journal(), path) as (killed, url):
        grant(killed, A)
        assert (await ask(url, prompt))[0] == 200
        first = killed.usage("sbx_a")
        assert [bound.most for bound in Ledger(_copy(path)).open() if bound.owner == "sbx_a"] == [first], "all is told"
        slow = "[model slow=0.02][model chunks=500][model input_tokens=100][model say=" + "words " * 1500 + "]"
        slow = slow if stream else "[model stall=20]" + "word " * 400
        call = asyncio.create_task(ask(url, slow, stream=stream, max_tokens=5000))
        while len(model.requests) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        journaled, known = LlmUsage(requests=1, input_tokens=100, output_tokens=800, usd=0.0164), killed.usage("sbx_a")
        copy = _copy(path)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    journal = Journal()
    async with gateway(model, journal, copy) as (made, _):
        made.restore("sbx_a", journaled)
        grant(made, A)
        usage, org = made.usage("sbx_a"), made._orgs["org_1"]
        assert usage is not None and known is not None
        assert usage.tokens >= known.tokens and usage.usd >= known.usd, "never less than had passed"
        # and no more than a step of the stream, or what the other call might have come to
        most = 1000 + 1100 + 900 if stream else 900 + 5000 + 600
        assert known.tokens < usage.tokens <= most
        assert org.day.spent.tokens == usage.tokens
        await asyncio.sleep(1.2)
        assert journal.kinds("llm_usage")[-1]["usage"]["usd"] == pytest.approx(usage.usd)
        assert journal.kinds("llm_org_usage")[-1]["usage"]["usd"] == pytest.approx(usage.usd)


async def test_what_the_journal_has_not_taken_stays_in_the_ledger(model: ScriptedModel, tmp_path: Path) -> None:
    path = tmp_path / "ledger"

    class Full(Journal):
        async def __call__(self, *entry: Any) -> None:
            raise OSError("no room")

    for journal, left in ((Full(), True), (Journal(), False)):
        async with gateway(model, journal, path) as (made, url):
            grant(made, A)
            assert (await ask(url, "[model tokens=800]"))[0] == 200
        assert path.exists() == left
    assert journal.kinds("llm_usage")[-1]["usage"]["output_tokens"] == 1600


async def test_a_grant_that_is_taken_back_in_the_middle_counts_for_its_organisation(model: ScriptedModel) -> None:
    async with gateway(model, Journal()) as (made, url):
        grant(made, A)
        call = asyncio.create_task(ask(url, LONG.replace("0.001", "0.05")))
        while not (made.usage("sbx_a") or LlmUsage()).input_tokens:
            await asyncio.sleep(0.01)
        made.grant(*A, None)
        await asyncio.gather(call, return_exceptions=True)
        while made._orgs["org_1"].day.calls:
            await asyncio.sleep(0.01)
        used = made.usage("sbx_a")
        assert used is not None and made._orgs["org_1"].day.spent.tokens == used.tokens > 10


def test_a_day_ends_and_its_month_goes_on() -> None:
    now = "2026-11-29"
    org = Organisation("org_1", lambda: now)
    org.allow(OrgBudget(day_tokens=100, month_tokens=150))
    prices, entry = account_module.PriceTable({}), Entry()
    account = account_module.Account("sbx_a", prices, Journal(), account_module.Ledger())
    account.org = org

    def use(tokens: int) -> None:
        asyncio.run(account.admit(entry := Entry(), Tokens(input=1)))
        account.count(entry, Tokens(input=tokens), None)
        account.leave(entry)

    use(100)
    assert org.day.exceeded() == {"part": "org_day_tokens", "used": 100, "limit": 100} and org.month.exceeded() is None
    now = "2026-11-30"
    org.turn()
    assert org.day.exceeded() is None and org.day.spent.tokens == 0
    use(60)
    assert org.month.exceeded() == {"part": "org_month_tokens", "used": 160, "limit": 150}
    assert org.unwritten == {"2026-11-29", "2026-11-30"}
    now = "2026-12-01"
    org.turn()
    assert org.month.exceeded() is None
    assert (org.usage("2026-11-30").tokens, org.usage("2026-12-01").tokens) == (60, 0)
    assert entry.purses == ()
