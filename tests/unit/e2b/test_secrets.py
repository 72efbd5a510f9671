"""E2B's secrets, and the header rules that refer to them, before a server whose node is a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from hutch.control.service import Control
from hutch.model.e2b import hutch_sandbox_id
from hutch.settings import Settings
from tests.unit.control.conftest import control, node, settings
from tests.unit.control.model_node import ModelNode
from tests.unit.e2b.test_calls import api, made

__all__ = ["api", "control", "node", "settings"]

VALUE, OTHER = "sk-the-first-value-of-it", "sk-the-second-value-of-it"


async def secret(api: httpx.AsyncClient, name: str, value: str = VALUE, **more: Any) -> dict[str, Any]:
    answer = await api.post("/secrets", json={"name": name, "value": value} | more)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rules(value: str, host: str = "api.example.com") -> dict[str, Any]:
    return {"rules": {host: [{"transform": {"headers": {"Authorization": value}}}]}}


def headers(node: ModelNode, id: str) -> dict[str, dict[str, str]]:
    """What the node was told, by host."""
    grant = node.secrets[hutch_sandbox_id(id) or ""]
    assert grant is not None
    return {each.host: {k: v.get_secret_value() for k, v in each.headers.items()} for each in grant.headers}


async def test_a_secret_from_its_making_to_its_end(
    api: httpx.AsyncClient, control: Control, settings: Settings
) -> None:
    first = await secret(api, "OpenAI/Key", metadata={"team": "blue"})
    assert first["name"] == "openai/key" and first["currentVersion"] == 1 and first["metadata"] == {"team": "blue"}
    assert set(first) == {"secretID", "name", "currentVersion", "metadata", "createdAt", "updatedAt"}
    assert (await api.post("/secrets", json={"name": "openai/KEY", "value": VALUE})).status_code == 409
    for wanted in (first["secretID"], "openai%2Fkey", "OPENAI%2FKEY"):
        assert (await api.get(f"/secrets/{wanted}")).json() == first
    second = (await api.post(f"/secrets/{first['secretID']}", json={"value": OTHER})).json()
    assert second["currentVersion"] == 2 and second["metadata"] == {"team": "blue"}
    third = await api.post("/secrets/openai%2Fkey", json={"value": VALUE, "metadata": {}})
    assert third.status_code == 200 and third.json()["currentVersion"] == 3 and third.json()["metadata"] == {}
    assert await control.secrets.rekey() == 1  # another key, and nothing is lost
    (row,) = await control.store.e2b_secrets.everything()
    assert control._context.keyring.unseal(row.sealed, f"e2b_secrets:{row.id}") == VALUE
    assert await control.store.e2b_secrets.find("org_other", row.id) is None
    await control.store.database.settle()
    for path in Path(settings.server_dir).glob("hutch.db*"):
        assert VALUE.encode() not in path.read_bytes() and OTHER.encode() not in path.read_bytes()
    assert (await api.delete("/secrets/openai%2Fkey")).status_code == 204
    for call in (api.get, api.delete):
        gone = await call(f"/secrets/{first['secretID']}")
        assert gone.status_code == 404 and gone.json()["code"] == 404


async def test_pages(api: httpx.AsyncClient) -> None:
    for number in range(5):
        await secret(api, f"s{number}")
    seen, token = [], ""
    while True:
        answer = await api.get("/secrets", params={"limit": 2} | ({"nextToken": token} if token else {}))
        seen += [each["name"] for each in answer.json()]
        token = answer.headers.get("x-next-token", "")
        if not token:
            break
    assert seen == ["s0", "s1", "s2", "s3", "s4"]
    assert (await api.get("/secrets", params={"nextToken": "nonsense"})).status_code == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"name": "", "value": VALUE}, "name"),
        ({"name": "a{b", "value": VALUE}, "name"),
        ({"name": "SEC_x", "value": VALUE}, "name"),
        ({"name": "a", "value": "short"}, "8 to"),
        ({"name": "a", "value": "two\nlines-of-it"}, "ASCII"),
        ({"name": "a", "value": VALUE, "metadata": {"k": "v" * 1025}}, "metadata"),
        ({"name": "a"}, "value"),
    ],
)
async def test_what_cannot_be_a_secret(api: httpx.AsyncClient, body: dict[str, Any], said: str) -> None:
    answer = await api.post("/secrets", json=body)
    assert answer.status_code == 400 and said in answer.json()["message"] and "lines-of-it" not in answer.text


async def test_rules_have_the_values_of_now(api: httpx.AsyncClient, node: ModelNode, control: Control) -> None:
    await secret(api, "openai")
    id = await made(api, network=rules("Bearer ${e2b.secrets.OpenAI}"))
    grant = node.boots[hutch_sandbox_id(id) or ""].secrets
    assert grant is not None and grant.hosts == ["api.example.com"] and "BEGIN CERTIFICATE" in grant.authority
    assert grant.headers[0].headers["Authorization"].get_secret_value() == f"Bearer {VALUE}"
    network = node.boots[hutch_sandbox_id(id) or ""].network.model_dump()
    assert network["brokered"] == ["api.example.com"] and network["public"] is True
    shown = (await api.get(f"/sandboxes/{id}")).json()["network"]
    assert shown["rules"] == rules("Bearer ${e2b.secrets.OpenAI}")["rules"]
    await api.post("/secrets/openai", json={"value": OTHER})
    assert headers(node, id) == {"api.example.com": {"Authorization": f"Bearer {OTHER}"}}
    await api.delete("/secrets/openai")
    told = node.secrets[hutch_sandbox_id(id) or ""]
    assert told is not None and told.headers[0].missing == ["openai"] and not told.headers[0].headers
    await secret(api, "openai")
    assert headers(node, id) == {"api.example.com": {"Authorization": f"Bearer {VALUE}"}}
    assert (await api.post(f"/sandboxes/{id}/pause", json={})).status_code == 204
    (fork,) = (await api.post(f"/sandboxes/{id}/fork", json={})).json()
    forked = node.boots[hutch_sandbox_id(fork["sandbox"]["sandboxID"]) or ""].secrets
    assert forked is not None and forked.authority != grant.authority and forked.headers == grant.headers
    records = (await control.audit.page("org_1", 0, 100, None, None, None)).records
    assert not any(text in str(records) for text in (VALUE, OTHER, "Bearer"))


async def test_identity_tokens_of_rules(api: httpx.AsyncClient, node: ModelNode) -> None:
    """The node is told for whom they are: they are signed when a request is made."""
    audiences = {"aws": "sts.example.com", "Vault 1": "vault"}
    tokens = {name: {"audience": audience, "tokenType": "JWT-SVID"} for name, audience in audiences.items()}
    id = await made(api, network=rules("Bearer ${e2b.identity.tokens.aws}"), iam={"tokens": tokens})
    grant = node.boots[hutch_sandbox_id(id) or ""].secrets
    assert grant is not None and grant.headers[0].tokens == {"aws": "sts.example.com"}
    shown = (await api.get(f"/sandboxes/{id}")).json()["network"]
    assert shown["rules"] == rules("Bearer ${e2b.identity.tokens.aws}")["rules"]
    changed = await api.put(f"/sandboxes/{id}/network", json=rules("${e2b.identity.tokens.Vault 1}"))
    assert changed.status_code == 204, changed.text
    told = node.secrets[hutch_sandbox_id(id) or ""]
    assert told is not None and told.headers[0].tokens == {"Vault 1": "vault"}
    unknown = await api.put(f"/sandboxes/{id}/network", json=rules("${e2b.identity.tokens.gcp}"))
    assert unknown.status_code == 400 and "gcp" in unknown.json()["message"]
    assert (await api.post(f"/sandboxes/{id}/pause", json={})).status_code == 204
    (fork,) = (await api.post(f"/sandboxes/{id}/fork", json={})).json()
    forked = node.boots[hutch_sandbox_id(fork["sandbox"]["sandboxID"]) or ""].secrets
    assert forked is not None and forked.headers[0].tokens == {"Vault 1": "vault"}
    for wrong in ({"audience": "a", "tokenType": "X509"}, {"audience": "a b", "tokenType": "JWT-SVID"}):
        refused = await api.post("/v2/sandboxes", json={"templateID": "base", "iam": {"tokens": {"aws": wrong}}})
        assert refused.status_code == 400


async def test_rules_are_replaced_while_it_runs(api: httpx.AsyncClient, node: ModelNode) -> None:
    id = await made(api)
    own = hutch_sandbox_id(id) or ""
    asked = {"allowOut": ["one.example.com", "two.example.com"], "denyOut": ["0.0.0.0/0"]}

    async def put(**network: Any) -> None:
        answer = await api.put(f"/sandboxes/{id}/network", json=network)
        assert answer.status_code == 204, answer.text

    await put(**asked, **rules("literal-credential", "*.example.com"))
    assert headers(node, id) == {"*.example.com": {"Authorization": "literal-credential"}}
    first = node.secrets[own]
    assert node.networks[own].model_dump()["brokered"] == ["*.example.com"]
    await put(**asked, **rules("another-credential", "one.example.com"))
    second = node.secrets[own]
    assert first is not None and second is not None
    assert headers(node, id) == {"one.example.com": {"Authorization": "another-credential"}}
    await put(**asked, **rules("x", "elsewhere.test"))
    third = node.secrets[own]
    assert third is not None and third.authority != second.authority  # it may not vouch for that one
    await put(**asked)
    assert headers(node, id) == {} and "brokered" not in node.networks[own].model_dump()
    assert "rules" not in (await api.get(f"/sandboxes/{id}")).json()["network"]


@pytest.mark.parametrize(
    ("network", "status", "said"),
    [
        (rules("a\r\nb"), 400, "Authorization"),
        (rules("x", "192.0.2.7"), 400, "address"),
        (rules("x", "*"), 400, "network.rules"),
        (rules("Bearer ${e2b.identity.tokens.aws}"), 400, "not made with: aws"),
        (rules("Bearer ${e2b.identity.claims}"), 400, "something else"),
        ({"rules": {"a.test": [{"transform": {"headers": {"Host": "b.test"}}}]}}, 400, "Host"),
        ({"rules": {"a.test": [{"transform": {"path": "/x"}}]}}, 400, "path"),
        (rules("${e2b.secrets.a}" * 17), 400, "16 times"),
        ({"rules": {f"{n}.a.test": [{"transform": {"headers": {"X": "x" * 8000}}}] for n in range(5)}}, 400, "32768"),
        ({"allowOut": ["a.test"], "denyOut": ["0.0.0.0/0"], "dnsServers": ["10.0.0.53"]}, 400, "not public"),
        ({"egressProxy": {"address": "proxy.test:1080"}}, 501, "egress_proxy"),
    ],
)
async def test_what_no_rule_can_do(
    api: httpx.AsyncClient, node: ModelNode, network: dict[str, Any], status: int, said: str
) -> None:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", "network": network})
    assert answer.status_code == status and said in answer.json()["message"], answer.text
    assert not node.boots
