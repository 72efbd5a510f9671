"""Secrets: kept sealed, never told, and openable whenever the process was killed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode

from hutch.control import networks, secret_grants
from hutch.control.create import Creator
from hutch.control.service import Control
from hutch.errors import HutchError, InvalidPolicy, NotFound
from hutch.model import CreateSandbox, NetworkRules, PutSecret
from hutch.model.grant import SecretGrant
from hutch.secrets import key_number
from hutch.settings import Settings
from hutch.store import DEFAULT_ORG

TOKEN = "ghp_0123456789abcdefABCDEF0123456789abcd"


def wanted(value: str = TOKEN, **more: object) -> PutSecret:
    return PutSecret.model_validate({"value": value, "hosts": ["api.github.com"], **more})


async def value_of(control: Control, name: str) -> str:
    (row,) = await control.store.secrets.some(DEFAULT_ORG, [name])
    return control._context.keyring.unseal(row.sealed, f"secrets:{DEFAULT_ORG}:{name}")


async def test_a_secret_is_in_no_answer_and_not_in_the_database(control: Control, settings: Settings) -> None:
    made = await control.secrets.put("GITHUB_TOKEN", wanted(), DEFAULT_ORG)
    assert made.places == ["bearer", "basic"]
    again = await control.secrets.put("GITHUB_TOKEN", wanted("another-value", places=["header:X-Key"]), DEFAULT_ORG)
    (listed,) = await control.secrets.list(DEFAULT_ORG)
    assert again == listed and listed.places == ["header:x-key"] and listed.created_at == made.created_at
    assert await value_of(control, "GITHUB_TOKEN") == "another-value"
    assert await control.secrets.list("org_other") == []
    await control.store.database.settle()
    for path in Path(settings.server_dir).glob("hutch.db*"):
        assert TOKEN.encode() not in path.read_bytes() and b"another-value" not in path.read_bytes()
    with pytest.raises(NotFound):
        await control.secrets.delete("GITHUB_TOKEN", "org_other")
    await control.secrets.delete("GITHUB_TOKEN", DEFAULT_ORG)
    assert await control.secrets.list(DEFAULT_ORG) == []


@pytest.mark.parametrize("step", ["add", "commit", "settle", "forget"])
async def test_another_key_whenever_the_process_is_killed(
    settings: Settings, node: ModelNode, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = settings.server_dir / "secrets.keys"
    async with controlling(settings, node) as control:
        for number in range(3):
            await control.secrets.put(f"S{number}", wanted(f"value-number-{number}"), DEFAULT_ORG)
        before = path.read_text()

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        if step == "add":
            monkeypatch.setattr(control.secrets, "_seal_anew", killed)
        elif step == "commit":
            monkeypatch.setattr(control.store.secrets, "reseal", killed)
        elif step == "settle":
            monkeypatch.setattr(control.store.database, "settle", killed)
        else:
            monkeypatch.setattr(control._context.keyring, "forget_older", killed)
        with pytest.raises(KeyboardInterrupt):
            await control.secrets.rekey()
        assert len(json.loads(path.read_text())["keys"]) == 2
        monkeypatch.undo()
    async with controlling(settings, node) as control:
        keys = json.loads(path.read_text())
        assert list(keys["keys"]) == ["2"] and json.loads(before)["keys"]["1"] not in path.read_text()
        for number in range(3):
            assert await value_of(control, f"S{number}") == f"value-number-{number}"


async def test_a_value_that_no_key_opens_keeps_nobody_from_starting(settings: Settings, node: ModelNode) -> None:
    async with controlling(settings, node) as control:
        await control.secrets.put("LOST", wanted(), DEFAULT_ORG)
        (settings.server_dir / "secrets.keys").unlink()
    async with controlling(settings, node) as control:
        assert await control.secrets.rekey() == 1
        await control.secrets.put("LOST", wanted("found-again"), DEFAULT_ORG)
        assert await value_of(control, "LOST") == "found-again"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hosts": []}, "hosts"),
        ({"hosts": ["192.0.2.1"]}, "hosts"),
        ({"hosts": ["*.com"]}, "hosts"),
        ({"hosts": ["example.com:80"]}, "hosts"),
        ({"places": ["path"]}, "places"),
        ({"places": ["header:Host"]}, "places"),
        ({"places": ["header:a b"]}, "places"),
        ({"places": ["env"]}, "places"),
        ({"value": "short"}, "value"),
        ({"value": "two\nlines-of-it"}, "value"),
        ({"value": "a\0nul-somewhere", "hosts": [], "places": ["env"]}, "value"),
    ],
)
def test_what_cannot_be_a_secret(fields: dict[str, object], field: str) -> None:
    with pytest.raises(HutchError) as caught:
        wanted(**{"value": "long-enough", **fields})  # type: ignore[arg-type]
    assert caught.value.extra["field"] == field
    assert "long-enough" not in str(caught.value) and "lines-of-it" not in str(caught.value)


async def with_secret(control: Control) -> str:
    network = {"mode": "rules", "allow": ["api.github.com"]}
    made = await control.create(
        CreateSandbox.model_validate({"template": "standard", "secrets": ["TOKEN"], "network": network})
    )
    return made.id


def value_at(node: ModelNode, id: str) -> str | None:
    grant = node.secrets[id]
    assert grant is not None
    value = grant.secrets[0].value
    return value.get_secret_value() if value is not None else None


@pytest.mark.parametrize("deleted", [False, True])
async def test_what_was_replaced_while_it_was_told_is_told_before(
    control: Control, node: ModelNode, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.secrets.put("TOKEN", wanted("the-first-value"), DEFAULT_ORG)
    id = await with_secret(control)
    row = await control.store.sandboxes.get(id)
    assert row is not None
    asked, go_on = asyncio.Event(), asyncio.Event()
    set_secrets = node.set_secrets

    async def slow(sandbox_id: str, grant: SecretGrant | None) -> None:
        if not asked.is_set():
            asked.set()
            await go_on.wait()
        await set_secrets(sandbox_id, grant)

    monkeypatch.setattr(node, "set_secrets", slow)
    telling = asyncio.create_task(secret_grants.tell(control._context, row))  # as when the node was restarted
    await asked.wait()
    change = control.secrets.delete("TOKEN", DEFAULT_ORG)
    if not deleted:
        change.close()
        change = control.secrets.put("TOKEN", wanted("the-second-value"), DEFAULT_ORG)
    changing = asyncio.ensure_future(change)
    for _ in range(100):  # as far as it comes
        await asyncio.sleep(0.002)
    go_on.set()
    await asyncio.gather(telling, changing)
    assert value_at(node, id) == (None if deleted else "the-second-value")


async def test_a_key_that_goes_while_a_sandbox_is_made_leaves_it_its_secrets(
    control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await control.secrets.put("TOKEN", wanted("the-value"), DEFAULT_ORG)
    insert = Creator._insert
    changed: list[asyncio.Task[int]] = []

    async def late(*given: Any) -> None:
        changed.append(asyncio.create_task(control.secrets.rekey()))
        await asyncio.wait(changed, timeout=0.3)  # as far as it comes
        await insert(*given)

    monkeypatch.setattr(Creator, "_insert", late)
    id = await with_secret(control)
    await asyncio.gather(*changed)
    monkeypatch.undo()
    row = await control.store.sandboxes.get(id)
    assert row is not None and key_number(row.sealed_secrets or b"") == control._context.keyring.current == 2

    async def refuse(*call: Any) -> None:
        await control.secrets.rekey()
        raise InvalidPolicy("no", field="network")

    monkeypatch.setattr(node, "set_network", refuse)
    with pytest.raises(InvalidPolicy):
        await networks.change(control._context, row, NetworkRules(allow=["api.github.com", "pypi.org"]))
    await secret_grants.tell(control._context, row)
    assert value_at(node, id) == "the-value" and control._context.keyring.current == 3
