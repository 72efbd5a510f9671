"""Changes of a sandbox's network policy."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.model import CreateSandbox, DenyAll, Fork, NetworkPolicy, NetworkRules


async def test_what_is_noted_of_two_changes_at_once_is_what_the_node_has(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = await control.create(CreateSandbox())
    told: list[NetworkPolicy] = []

    async def slowly_heard(sandbox_id: str, policy: NetworkPolicy) -> None:
        told.append(policy)
        if len(told) == 1:  # done, and its answer is on its way for long
            await asyncio.sleep(0.3)

    monkeypatch.setattr(node, "set_network", slowly_heard)
    policies = NetworkRules(allow=["x.org"]), DenyAll()
    await asyncio.gather(*(control.set_network(box.id, policy) for policy in policies))
    assert (await control.get(box.id)).network == told[-1]
    (fork,) = await control.fork(box.id, Fork())
    assert fork.network == told[-1]
