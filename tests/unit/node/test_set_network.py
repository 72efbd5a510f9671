"""A policy that cannot be set changes nothing: not what is in force, and not what a later daemon finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.node.machine import Host, daemon
from tests.unit.node.test_state_killed import SANDBOX, request

from hutch.errors import InternalError
from hutch.model import AllowAll, DenyAll


async def test_what_was_in_force_stays_when_a_policy_cannot_be_set(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(memory)
    async with daemon(host) as node:
        await node.sandboxes.boot(SANDBOX, request())
        in_force: list[object] = []
        slots, set_policy = node.parts.slots, node.parts.slots.set_policy

        async def noted(slot: object, policy: object) -> None:
            await set_policy(slot, policy)  # type: ignore[arg-type]
            in_force.append(policy)

        monkeypatch.setattr(slots, "set_policy", noted)
        host.fail, host.wrong = "policy", InternalError("no nftables")
        with pytest.raises(InternalError):
            await node.sandboxes.set_network(SANDBOX, AllowAll())
        assert in_force == [DenyAll()]
        (written,), _ = await node.parts.records.load()
        assert written.network == node.parts.registry.get(SANDBOX).record.network == DenyAll()
        await node.sandboxes.set_network(SANDBOX, AllowAll())
        (written,), _ = await node.parts.records.load()
        assert in_force[-1] == written.network == AllowAll()
