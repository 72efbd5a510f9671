"""A sandbox that does much is told of in brief, and keeps none of the others untold."""

from __future__ import annotations

import asyncio
from typing import Any

from hutch.egress.reports import RATE, UNTOLD, Reports


async def test_what_is_too_much_of_one_is_counted_and_told_later() -> None:
    told: list[dict[str, Any]] = []
    behind = False
    reports = Reports(told.append, lambda: behind, every=0.01)
    for number in range(10_000):
        reports.add({"sandbox": "sbx_a", "kind": "connection", "allowed": True, "port": number, "sent": 2})
        reports.add({"sandbox": "sbx_a", "kind": "name", "allowed": False, "name": str(number)})
    reports.add({"sandbox": "sbx_b", "kind": "name", "allowed": True, "name": "good.test"})
    assert told[-1]["sandbox"] == "sbx_b"
    whole = len(told)
    assert RATE[1] <= whole < 5000
    behind = True
    await asyncio.sleep(0.05)
    assert len(told) == whole, "the node is behind"
    reports.add({"sandbox": "sbx_b", "kind": "name", "allowed": True, "name": "other.test"})
    behind = False
    async with asyncio.timeout(5):
        while len(told) == whole:
            await asyncio.sleep(0.01)
    brief = {(entry["sandbox"], entry["kind"]): entry for entry in told[whole:]}
    assert all(entry["reason"] == UNTOLD for entry in brief.values())
    listed = [entry["kind"] for entry in told[:whole] if entry["sandbox"] == "sbx_a"]
    assert brief["sbx_a", "connection"]["count"] == 10_000 - listed.count("connection")
    assert brief["sbx_a", "connection"]["sent"] == 2 * brief["sbx_a", "connection"]["count"]
    assert brief["sbx_a", "name"]["count"] == 10_000 - listed.count("name")
    assert not brief["sbx_a", "name"]["allowed"]
    assert brief["sbx_b", "name"]["count"] == 1
