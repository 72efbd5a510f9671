"""Budgets of organisations on the server: told to the nodes, and what these have counted put together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control.budget import Alarm, stop_for
from hutch.control.checks import check
from hutch.control.journal import _condensed
from hutch.control.service import Control
from hutch.errors import InvalidRequest, MissingLlmKey, NodeUnavailable
from hutch.model import CreateSandbox, JournalEntry, LlmUsage, OrgBudget, Resources, TemplateInfo
from hutch.settings import LlmEndpoint, Settings

TODAY = datetime.now(UTC).date()


def entry(seq: int, day: str, tokens: int, org: str = "org_1") -> JournalEntry:
    usage = LlmUsage(requests=1, output_tokens=tokens, usd=tokens / 100).model_dump(mode="json")
    data = {"org": org, "day": day, "usage": usage}
    return JournalEntry(seq=seq, time=datetime.now(UTC), sandbox="", kind="llm_org_usage", data=data)


async def test_what_nodes_have_counted_is_put_together_once(control: Control) -> None:
    month = TODAY.replace(day=1)
    journal, before = control._journal, month - timedelta(days=1)
    earlier = month if month != TODAY else None
    entries = [entry(1, TODAY.isoformat(), 100), entry(2, TODAY.isoformat(), 200), entry(3, before.isoformat(), 7000)]
    entries += [entry(4, TODAY.isoformat(), 1, "org_2")] + ([entry(5, earlier.isoformat(), 30)] if earlier else [])
    assert [each.seq for each in _condensed(entries)] == [2, 3, 4, 5][: len(entries) - 1]
    for node in ("aaaa", "bbbb"):
        journal._id = node
        async with control.store.database.write() as connection:
            for each in [*entries, entries[1]]:
                await journal._apply_entry(connection, each)
    found = await control.spending.of("org_1")
    assert (found.day.output_tokens, found.day.usd) == (400, 4.0)
    assert found.month.output_tokens == 400 + (60 if earlier else 0)
    assert found.day_ends.date() == TODAY + timedelta(days=1)
    assert found.month_ends.day == 1 and found.month_ends.date() > TODAY
    assert (await control.spending.of("org_3")).month == LlmUsage()


async def test_a_budget_is_told_to_the_node_at_once_and_again_when_it_is_back(
    settings: Settings, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with controlling(settings, node) as control:
        await control.spending.set("org_1", OrgBudget(day_usd=5))
        assert node.budgets == {"org_1": OrgBudget(day_usd=5)}

        async def away(budgets: Any) -> None:
            raise NodeUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(node, "set_llm_budgets", away)
            set_ = await control.spending.set("org_1", OrgBudget(month_tokens=9))
        assert set_.budget == OrgBudget(month_tokens=9) and node.budgets == {"org_1": OrgBudget(day_usd=5)}
        await control._reconciler.run()
        assert node.budgets == {"org_1": OrgBudget(month_tokens=9)}
    node.budgets = {}
    async with controlling(settings, node) as control:
        await control._reconciler.run()
        assert node.budgets == {"org_1": OrgBudget(month_tokens=9)}


def test_a_task_is_told_which_budget_has_ended_it() -> None:
    stop = stop_for(Alarm("org_day_usd", "exceeded", 51.0, 50.0))
    assert stop == {
        "state": "budget_exceeded",
        "error": "budget_exceeded",
        "detail": "the budget of 50 dollars a day of the organisation is used up",
    }


def test_a_provider_is_named_by_who_may_and_speaks_as_its_agent() -> None:
    resources = Resources(cpus=1, memory_mib=512, disk_mib=512, pids=64)
    templates = [TemplateInfo(name="t", description="", resources=resources, image="i", agents=["codex"])]
    endpoints = {
        "vllm": LlmEndpoint(base_url="http://vllm:8000/v1"),
        "proxy": LlmEndpoint(api="anthropic", base_url="http://p"),
    }
    settings = Settings(llm_providers=endpoints)

    def create(agent: str, provider: str, key: str | None = "k") -> None:
        fields = {"template": "t", "agent": agent, "task": "x", "llm_key": key, "llm_provider": provider}
        check(CreateSandbox.model_validate(fields), templates, settings)

    for agent, provider in (("codex", "openai"), ("codex", "vllm"), ("command", "google"), ("command", "proxy")):
        create(agent, provider)
    for agent, provider in (("codex", "proxy"), ("codex", "google"), ("command", "nobody")):
        with pytest.raises(InvalidRequest) as raised:
            create(agent, provider)
        assert raised.value.extra["field"] == "llm_provider"
    with pytest.raises(MissingLlmKey):
        create("command", "google", None)
    with pytest.raises(ValueError, match="Hutch's own"):
        Settings(llm_providers={"openai": LlmEndpoint(base_url="http://x")})
