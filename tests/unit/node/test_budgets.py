"""Budgets of organisations on the node: kept over restarts, with what was used."""

from __future__ import annotations

from pathlib import Path

from tests.unit.node.machine import Host, daemon

from hutch.egress.llm.organisation import today
from hutch.model import LlmUsage, OrgBudget


async def test_budgets_and_what_was_used_outlive_the_daemon(memory: Path) -> None:
    host, used = Host(memory), LlmUsage(requests=1, output_tokens=90, usd=0.9)
    async with daemon(host) as node:
        await node.parts.budgets.set({"org_1": OrgBudget(day_tokens=100)})
        data = {"org": "org_1", "usage": used.model_dump(mode="json")}
        await node.parts.journal.append("", "llm_org_usage", data | {"day": "2020-01-31"})
        await node.parts.journal.append("", "llm_org_usage", data | {"day": today()})
    async with daemon(host) as node:
        org = node.parts.gateway._org("org_1")
        assert (org.day.max_tokens, org.day.spent.tokens, org.month.spent.tokens) == (100, 90, 90)
        await node.parts.budgets.set({})
        assert org.day.max_tokens is None
    (node.parts.home.directory / "llm-budgets.json").write_bytes(b"torn {")
    async with daemon(host) as node:
        assert node.parts.gateway._org("org_1").day.spent.tokens == 90
