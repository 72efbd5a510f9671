"""Named policies: what they mean is what their rules are now, for every sandbox that stands on them."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control import policies as module
from hutch.control.service import Control
from hutch.errors import Conflict, InvalidPolicy, LimitReached, NotFound
from hutch.model import CreateSandbox, Fork, NamedPolicy, NetworkPolicy, NetworkRules, PutPolicy, Sandbox
from hutch.model.policies import BUILT_IN
from hutch.settings import Settings
from hutch.store import DEFAULT_ORG

OWN = NetworkRules(allow=["own.org"], policies=["mine", "packages"])


async def save(control: Control, *rules: str, name: str = "mine", org: str = DEFAULT_ORG) -> NamedPolicy:
    return await control.policies.put(name, PutPolicy(allow=list(rules)), org)


async def make(control: Control, network: NetworkPolicy = OWN, org: str = DEFAULT_ORG) -> Sandbox:
    return await control.create(CreateSandbox(network=network), org=org)


def reached(node: ModelNode, box: Sandbox) -> set[str]:
    """What the node was told of it, but for what is built in."""
    told = node.networks[box.id]
    assert isinstance(told, NetworkRules)
    return set(told.allow) - set(BUILT_IN["packages"])


async def test_kept_listed_replaced_and_forgotten(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await save(control, "X.org", "x.org", "192.0.2.0/24:22")
    assert (made.allow, made.built_in, made.sandboxes) == (["x.org", "192.0.2.0/24:22"], False, 0)
    assert await save(control, "x.org", "192.0.2.0/24:22") == made
    changed = await save(control)
    assert (changed.allow, changed.created_at) == ([], made.created_at) and changed.updated_at != made.updated_at
    assert [each.name for each in await control.policies.list(DEFAULT_ORG)] == sorted([*BUILT_IN, "mine"])
    assert [each.name for each in await control.policies.list("org_other")] == sorted(BUILT_IN)
    assert (await control.policies.get("packages", DEFAULT_ORG)).allow == list(BUILT_IN["packages"])
    for wrong in ("packages", "public"):
        with pytest.raises(InvalidPolicy):
            await save(control, "x.org", name=wrong)
    with pytest.raises(InvalidPolicy, match="built in"):
        await control.policies.delete("packages", DEFAULT_ORG)
    for call in (control.policies.get, control.policies.delete):
        with pytest.raises(NotFound):
            await call("mine", "org_other")
    with pytest.raises(InvalidPolicy) as nested:
        await save(control, "packages")
    assert nested.value.extra["field"] == "allow" and "`policies`" in str(nested.value.hint)
    monkeypatch.setattr(module, "MAX_POLICIES", 1)
    await save(control, "y.org")
    with pytest.raises(LimitReached):
        await save(control, name="another")
    await control.policies.delete("mine", DEFAULT_ORG)
    with pytest.raises(NotFound):
        await control.policies.get("mine", DEFAULT_ORG)
    records = [each for each in await control.store.audit.page(DEFAULT_ORG, 0, 100) if each.action == "policy"]
    assert [each.outcome for each in records] == ["set", "replaced", "replaced", "deleted"]
    assert records[1].detail == {"allow": []}


async def test_a_change_is_one_for_all_that_stand_on_it(control: Control, node: ModelNode) -> None:
    with pytest.raises(InvalidPolicy, match="no policy mine"):
        await make(control)
    await save(control, "x.org")
    await save(control, "other.org", org="org_other")
    running, paused, plain = await make(control), await make(control), await make(control, NetworkRules(allow=["a.b"]))
    other = await make(control, org="org_other")
    await control.set_network(plain.id, NetworkRules(policies=["mine"]))
    await control.pause(paused.id)
    assert running.network == OWN and reached(node, running) == {"own.org", "x.org"}
    saved = await save(control, "y.org")
    assert (saved.sandboxes, saved.pending) == (3, 0)
    (fork,) = await control.fork(running.id, Fork())
    assert fork.network == OWN
    await control.resume(paused.id)
    for each in (running, paused, fork):
        assert reached(node, each) == {"own.org", "y.org"}
    assert (reached(node, plain), reached(node, other)) == ({"y.org"}, {"own.org", "other.org"})
    with pytest.raises(Conflict, match="4 sandboxes stand on the policy mine"):
        await control.policies.delete("mine", DEFAULT_ORG)
    for each in (running, paused, fork):
        await control.delete(each.id)
    await control.set_network(plain.id, NetworkRules(policies=["packages"]))
    await control.policies.delete("mine", DEFAULT_ORG)
    with pytest.raises(InvalidPolicy, match="no policy mine"):
        await control.set_network(plain.id, OWN)


async def test_no_sandbox_is_left_with_more_rules_than_it_may_have(control: Control, node: ModelNode) -> None:
    await save(control, "x.org")
    box = await make(control, NetworkRules(allow=[f"n{number}.org" for number in range(200)], policies=["mine"]))
    with pytest.raises(InvalidPolicy, match=f"{box.id} would have 257 rules"):
        await save(control, *(f"m{number}.org" for number in range(57)))
    assert "x.org" in reached(node, box) and (await control.policies.get("mine", DEFAULT_ORG)).allow == ["x.org"]
    await save(control, *(f"m{number}.org" for number in range(56)))
    assert len(reached(node, box)) == 256


async def test_a_node_that_does_not_answer_is_told_when_it_is_back(control: Control, node: ModelNode) -> None:
    await save(control, "x.org")
    box = await make(control)
    node.down = True
    assert (await save(control, "y.org")).pending == 1
    node.down = False
    await control._reconciler.run()
    assert reached(node, box) == {"own.org", "y.org"}
    assert (await control.policies.get("mine", DEFAULT_ORG)).pending == 0


@pytest.mark.parametrize("step", ["before the node", "after the node"])
async def test_whenever_the_process_is_killed_the_next_one_tells(
    settings: Settings, node: ModelNode, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def killed(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    async with controlling(settings, node) as control:
        await save(control, "x.org")
        running, paused = await make(control), await make(control)
        await control.pause(paused.id)
        if step == "before the node":
            monkeypatch.setattr(node, "set_network", killed)
        else:
            monkeypatch.setattr(control.store.sandboxes, "note", killed)
        with pytest.raises(asyncio.CancelledError):
            await save(control, "y.org")
        monkeypatch.undo()
    async with controlling(settings, node) as second:
        await second._reconciler.run()
        await second.resume(paused.id)
        assert reached(node, running) == reached(node, paused) == {"own.org", "y.org"}


async def test_a_sandbox_that_is_being_booted_comes_up_with_the_newest_rules(control: Control, node: ModelNode) -> None:
    await save(control, "x.org")
    node.doors["boot"] = asyncio.Event()
    creating = asyncio.create_task(make(control))
    while not node.calls["boot"]:
        await asyncio.sleep(0.01)
    await save(control, "y.org")
    node.doors["boot"].set()
    assert reached(node, await creating) == {"own.org", "y.org"}


async def test_a_paused_sandbox_that_could_not_be_told_is_before_it_wakes(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(control, "x.org")
    box = await make(control)
    await control.pause(box.id)
    node.down = True
    await save(control, "y.org")
    node.down = False
    node.doors["resume"] = asyncio.Event()
    waking = asyncio.create_task(control.resume(box.id))
    while not node.calls["resume"]:
        await asyncio.sleep(0.01)
    assert reached(node, box) == {"own.org", "y.org"}
    node.doors["resume"].set()
    await waking


async def test_a_policy_that_changes_while_a_sandbox_is_given_it(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save(control, "x.org")
    box = await make(control, NetworkRules(allow=["a.b"]))
    heard, saving = node.set_network, []

    async def late(sandbox_id: str, policy: NetworkPolicy) -> None:
        monkeypatch.undo()
        saving.append(asyncio.create_task(save(control, "y.org")))
        while (await control.policies.get("mine", DEFAULT_ORG)).allow != ["y.org"]:
            await asyncio.sleep(0.01)
        await heard(sandbox_id, policy)

    monkeypatch.setattr(node, "set_network", late)
    await control.set_network(box.id, OWN)
    await saving[0]
    assert reached(node, box) == {"own.org", "y.org"}


async def test_private_addresses_are_the_operators_choice(settings: Settings, node: ModelNode) -> None:
    inner = NetworkRules(allow=["10.20.3.4:22"])
    async with controlling(settings, node) as control:
        box = await make(control, NetworkRules(allow=["a.b"]))
        for call in (make(control, inner), control.set_network(box.id, inner), save(control, "10.20.3.4:22")):
            with pytest.raises(InvalidPolicy, match="is private") as caught:
                await call
            assert "HUTCH_PRIVATE_NETWORKS" in str(caught.value.hint)
    opened = settings.model_copy(update={"private_networks": "10.20.0.0/16"})
    async with controlling(opened, node) as control:
        await control.set_network(box.id, inner)
        assert reached(node, box) == {"10.20.3.4:22"}
        await save(control, "10.20.0.0/16")
        with pytest.raises(InvalidPolicy, match="is private"):
            await save(control, "10.0.0.0/8")
        other = await make(control, NetworkRules(policies=["mine"]))
        assert reached(node, other) == {"10.20.0.0/16"}
