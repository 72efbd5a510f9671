"""Changes of a sandbox's network policy."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control.service import Control
from hutch.errors import InvalidPolicy
from hutch.model import AllowAll, CreateSandbox, DenyAll, Fork, NetworkPolicy, NetworkRules
from hutch.settings import Settings


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


@pytest.mark.parametrize("step", ["before the node", "after the node"])
async def test_whenever_the_process_is_killed_in_a_change_row_and_node_agree_after(
    settings: Settings, node: ModelNode, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def killed(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    async with controlling(settings, node) as control:
        opened, closed = [await control.create(CreateSandbox(network=each)) for each in (DenyAll(), AllowAll())]
        monkeypatch.setattr(*((node, "set_network") if step[0] == "b" else (control.store.sandboxes, "note")), killed)
        for box, policy in ((opened, AllowAll()), (closed, DenyAll())):
            with pytest.raises(asyncio.CancelledError):
                await control.set_network(box.id, policy)
        monkeypatch.undo()
    async with controlling(settings, node) as second:
        await second._reconciler.run()
        for box, policy in ((opened, AllowAll()), (closed, DenyAll())):
            assert (await second.get(box.id)).network == node.networks[box.id] == policy
        told = dict(node.networks)
        node.networks.clear()
        await second._reconciler.run()
        assert node.networks == {} and told  # once is enough


async def test_what_the_node_refuses_changes_nothing(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> None:
        raise InvalidPolicy("no", field="allow")

    box = await control.create(CreateSandbox(network=DenyAll()))
    monkeypatch.setattr(node, "set_network", refused)
    with pytest.raises(InvalidPolicy):
        await control.set_network(box.id, AllowAll())
    monkeypatch.undo()
    node.networks.clear()
    await control._reconciler.run()
    assert (await control.get(box.id)).network == DenyAll() and node.networks == {}
