"""What calls leave in the audit log, through the whole application over a node without sandboxes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from hutch.api.app import create_app
from hutch.api.bodies import MAX_BODY
from hutch.control.service import Control
from hutch.model import CreateKey
from hutch.model.audit import AuditRecord, Verifier
from hutch.settings import Settings
from hutch.store.engine import DatabaseFull
from tests.unit.api.conftest import Api, client_of
from tests.unit.control.model_node import ModelFleet, ModelNode

SANDBOX = f"sbx_{'a' * 22}"
IDS = {"sandbox_id": SANDBOX, "task_id": f"tsk_{'a' * 22}", "exec_id": f"exe_{'a' * 22}"}
SECRET = "s3cret-value-77"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    keys: list[str] = []
    app = create_app(settings, Control(settings, ModelFleet(ModelNode())), keys.append)
    async with app.router.lifespan_context(app), client_of(app, keys[0]) as client:
        yield Api(app, keys[0], client)


async def records(api: Api, after: int = 0, **equal: str) -> list[AuditRecord]:
    found: list[AuditRecord] = await api.app.state.control.store.audit.page("org_default", after, 1000, **equal)
    return found


async def last(api: Api) -> int:
    return (await records(api))[-1].seq


def calls(found: list[AuditRecord]) -> list[tuple[str, str, str]]:
    return [(each.detail["method"], each.detail["path"], each.outcome) for each in found if each.action == "call"]


async def test_who_has_no_key_is_in_nobodys_log(api: Api) -> None:
    before = await records(api)
    async with api.anonymous as nobody:
        assert (await nobody.get("/v1/sandboxes")).status_code == 401
        assert (await nobody.get("/.well-known/jwks.json")).status_code == 200
    assert await records(api) == before


async def test_reads_can_be_left_out(api: Api, settings: Settings) -> None:
    api.app.state.settings = settings.model_copy(update={"audit_reads": False})
    before = await last(api)
    await api.client.get("/v1/node")
    await api.client.post("/v1/keys", json={"name": "x"})
    assert [each[2] for each in calls(await records(api, before))] == ["begun", "201"]


@pytest.mark.parametrize(
    ("method", "path", "recorded"),
    [
        ("GET", "/v1/sandboxes", 0),
        ("GET", f"/v1/sandboxes/{SANDBOX}", 0),  # which there is not
        ("POST", "/v1/keys", 0),
        ("POST", "/v1/keys", 1),  # carried out
    ],
)
async def test_what_cannot_be_recorded_is_answered_with_why(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str, recorded: int
) -> None:
    audit = api.app.state.control.store.audit
    left = [audit.record] * recorded

    async def full(*events: Any) -> None:
        if not left:
            raise DatabaseFull("the server's disk is full")
        await left.pop()(*events)

    monkeypatch.setattr(audit, "record", full)
    answer = await api.client.request(method, path, json={"name": "x"} if method == "POST" else None)
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full"), answer.text
    assert answer.json()["detail"] == "the server's disk is full"


async def test_a_websocket_is_recorded_before_it_is_open(api: Api) -> None:
    scope = {
        "type": "websocket", "path": f"/v1/sandboxes/{SANDBOX}/pty", "query_string": b"", "app": api.app, "state": {},
        "headers": [(b"authorization", f"Bearer {api.key}".encode())], "subprotocols": [],
    }  # fmt: skip
    before, sent = await last(api), []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if not sent else {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append((message["type"], calls(await records(api, before))))

    await api.app(scope, receive, send)
    assert sent[0] == ("websocket.accept", [("WS", f"/v1/sandboxes/{SANDBOX}/pty", "begun")])


async def test_all_records_of_a_call_name_who_and_which(api: Api) -> None:
    before = await last(api)
    answer = await api.client.post("/v1/sandboxes", json={"labels": {"a": "b"}}, headers={"X-Request-Id": "r-1"})
    made = answer.json()["id"]
    found = await records(api, before)
    key = api.key.split("_")[1]
    assert {(each.actor, each.request) for each in found} == {(f"key_{key}", "r-1")}
    said = [(each.action, each.subject, each.outcome) for each in found]
    assert said[0] == ("call", "", "begun") and said[-1] == ("call", "", "201")
    assert [each for each in said if each[0] == "sandbox"] == [
        ("sandbox", made, "starting"),
        ("sandbox", made, "running"),
    ]
    policy = {"mode": "rules", "allow": ["pypi.org"]}
    await api.client.put(f"/v1/sandboxes/{made}/network", json=policy)
    begun, in_force = (await records(api, subject=made))[-3:-1]
    assert (begun.action, begun.outcome, begun.detail["body"]["allow"]) == ("call", "begun", ["pypi.org"])
    assert (in_force.action, in_force.detail["allow"]) == ("policy", ["pypi.org"])
    await api.client.delete(f"/v1/sandboxes/{made}")
    assert [each.outcome for each in await records(api, subject=made, action="sandbox")][-2:] == ["stopping", "stopped"]


async def test_commands_and_paths_are_told_and_secrets_are_not(api: Api) -> None:
    sandbox = f"/v1/sandboxes/{SANDBOX}"
    await api.client.post(f"{sandbox}/exec", json={"command": "id -u", "env": {"K": SECRET}, "stdin": SECRET})
    await api.client.put(f"{sandbox}/files", params={"path": "/etc/x", "token": SECRET}, content=SECRET.encode())
    await api.client.post(
        "/v1/sandboxes", json={"agent": "command", "task": SECRET, "llm_key": SECRET, "env": {"K": SECRET}}
    )
    found = [each.detail for each in await records(api) if each.outcome == "begun"]
    assert {"method": "POST", "path": f"{sandbox}/exec", "body": {"command": "id -u"}} in found
    assert {"method": "PUT", "path": f"{sandbox}/files", "query": {"path": "/etc/x"}} in found
    assert SECRET not in json.dumps([each.model_dump() for each in await records(api)])


async def test_no_form_of_a_body_keeps_a_command_out_of_the_log(api: Api) -> None:
    sandbox, big = f"/v1/sandboxes/{SANDBOX}", "x" * 200_000
    body = json.dumps({"command": "evil"}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:5]
        yield body[5:]

    for content, type in (
        (body, "application/JSON"),
        (pieces(), "application/json"),
        (json.dumps({"env": {"PAD": big}, "command": "evil"}).encode(), "application/json"),
        (json.dumps({"command": "evil"}).encode("utf-16"), "application/vnd.x+json; a=b"),
    ):
        before = await last(api)
        answer = await api.client.post(f"{sandbox}/exec", content=content, headers={"Content-Type": type})
        assert answer.status_code == 404  # read and understood: there is no such sandbox
        begun = (await records(api, before))[0]
        assert (begun.outcome, begun.detail["body"]) == ("begun", {"command": "evil"}), type
    answer = await api.client.post(
        f"{sandbox}/exec", content=b'{"command": "evil"}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 400  # not understood, and not done
    huge = b'{"command": "evil", "env": {"PAD": "' + b"x" * MAX_BODY + b'"}}'

    async def endless() -> AsyncIterator[bytes]:
        for at in range(0, len(huge), 1 << 20):
            yield huge[at : at + (1 << 20)]

    for content in (huge, endless()):
        answer = await api.client.post(f"{sandbox}/exec", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


async def test_what_cannot_be_recorded_is_not_done(api: Api) -> None:
    async with api.app.state.control.store.database.write() as connection:
        await connection.execute(text("ALTER TABLE audit_records RENAME TO gone"))
    answer = await api.client.post("/v1/keys", json={"name": "unseen"})
    async with api.app.state.control.store.database.write() as connection:
        await connection.execute(text("ALTER TABLE gone RENAME TO audit_records"))
    assert answer.status_code == 500
    assert "unseen" not in (await api.client.get("/v1/keys")).text


async def test_a_secret_is_recorded_by_its_name_alone(api: Api) -> None:
    await api.client.put(
        "/v1/secrets/TOKEN", json={"value": SECRET, "hosts": ["api.example.com"], "places": ["bearer"]}
    )
    await api.client.delete("/v1/secrets/TOKEN")
    found = await records(api, subject="TOKEN")
    assert [each.outcome for each in found] == ["set", "deleted"]
    assert found[0].detail == {"hosts": ["api.example.com"], "places": ["bearer"]}
    assert SECRET not in json.dumps([each.model_dump() for each in await records(api)])


async def test_keys_and_their_end_are_recorded_with_what_they_do(api: Api) -> None:
    made = (await api.client.post("/v1/keys", json={"name": "ci"})).json()
    await api.client.delete(f"/v1/keys/{made['id']}")
    assert [each.outcome for each in await records(api, subject=made["id"], action="key")] == ["created", "revoked"]
    assert made["key"] not in json.dumps([each.model_dump() for each in await records(api)])


async def test_the_export_verifies_and_is_ones_own(api: Api) -> None:
    await api.client.post("/v1/identity/rotate", json={})
    answer = await api.client.get("/v1/audit/export")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    verifier = Verifier()
    assert list(verifier.read(lines)) == []
    assert verifier.records >= 4 and lines[-1]["type"] == "head"
    other = await api.app.state.keys.create(CreateKey(name="of another"), org="org_other")
    async with client_of(api.app, other.key) as stranger:
        foreign = (await stranger.get("/v1/audit")).json()["records"]
    assert {each["org"] for each in foreign} == {"org_other"}


async def test_pages_follow_on_each_other_and_can_be_narrowed(api: Api) -> None:
    for _ in range(5):
        await api.client.get("/v1/node")
    first = (await api.client.get("/v1/audit", params={"limit": 3})).json()
    second = (await api.client.get("/v1/audit", params={"limit": 3, "after": first["next"]})).json()
    assert [each["seq"] for each in first["records"] + second["records"]] == [1, 2, 3, 4, 5, 6]
    only: list[dict[str, Any]] = (await api.client.get("/v1/audit", params={"action": "key"})).json()["records"]
    assert {each["action"] for each in only} == {"key"}


async def test_calls_of_e2bs_api_are_recorded(api: Api) -> None:
    before = await last(api)
    for method, path in (("GET", "/v2/sandboxes"), ("POST", "/sandboxes/none/pause")):
        await api.client.request(method, path)
    found = calls(await records(api, before))
    assert [each[:2] for each in found] == [
        ("GET", "/v2/sandboxes"),
        ("POST", "/sandboxes/none/pause"),
        ("POST", "/sandboxes/none/pause"),
    ]
    assert found[1][2] == "begun" and found[2][2] != "begun"
