"""Nobody gets past the door without a key, and all who do not are told the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from hutch.model import new_id
from tests.unit.api.conftest import Api, client_of

SBX, TSK = new_id("sbx"), new_id("tsk")
UNKNOWN = "hk_" + "a" * 22 + "_" + "b" * 52
ROUTES = [("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/v1/keys"), ("GET", "/v1/no/such/path")]


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem = answer.json()
    assert problem["code"] == "unauthorized" and problem["hint"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_call_without_a_key_is_refused(api: Api, method: str, path: str) -> None:
    assert_refused(await api.anonymous.request(method, path))


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer nonsense", "Basic aGk6aGk=", "hk_x", f"Bearer {UNKNOWN}"]
)
async def test_call_with_a_wrong_key_is_refused(api: Api, header: str) -> None:
    assert_refused(await api.anonymous.get("/v1/sandboxes", headers={"Authorization": header}))


async def test_key_in_the_query_is_for_websockets_only(api: Api) -> None:
    assert_refused(await api.anonymous.get(f"/v1/sandboxes?token={api.key}"))


async def test_expired_key_is_refused(api: Api) -> None:
    made = (await api.client.post("/v1/keys", json={"name": "short", "expires_in": 0.05})).json()
    await asyncio.sleep(0.06)
    async with client_of(api.app, made["key"]) as client:
        answer = await client.get("/v1/keys")
    assert_refused(answer)
    assert "expired" in answer.json()["detail"]


async def test_revoked_key_is_refused_at_once(api: Api) -> None:
    made = (await api.client.post("/v1/keys", json={"name": "other"})).json()
    async with client_of(api.app, made["key"]) as client:
        assert (await client.get("/v1/keys")).status_code == 200
        assert (await api.client.delete(f"/v1/keys/{made['id']}")).status_code == 204
        assert_refused(await client.get("/v1/keys"))


async def test_body_of_an_unknown_caller_is_not_read(api: Api) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        raise AssertionError("it was read")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
    scope |= {"path": "/v1/uploads", "raw_path": b"/v1/uploads", "query_string": b"", "headers": []}
    await api.app(scope | {"server": ("hutch.test", 80), "client": None}, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 401


async def test_health_and_the_api_description_need_no_key(api: Api) -> None:
    assert (await api.anonymous.get("/healthz")).json()["status"] == "ok"
    assert (await api.anonymous.get("/openapi.json")).json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", ["/v1/tasks/tsk_x/stream", "/v1/sandboxes/sbx_x/pty", "/v1/no/such/path"])
@pytest.mark.parametrize("query", ["", "token=hk_wrong", f"token={UNKNOWN}"])
async def test_websocket_without_a_key_is_closed_with_4401(api: Api, path: str, query: str) -> None:
    code, reason = await closed_with(api.app, path, query)
    assert code == 4401 and reason["code"] == "unauthorized"


@pytest.mark.parametrize(
    ("path", "code", "name"),
    [
        ("/v1/tasks/nonsense/stream", 4404, "task_not_found"),
        (f"/v1/tasks/{TSK}/stream", 4404, "task_not_found"),
        (f"/v1/sandboxes/{SBX}/pty", 4404, "sandbox_not_found"),
        (f"/v1/sandboxes/{SBX}/pty?exec=nonsense", 4404, "exec_not_found"),
        (f"/v1/sandboxes/{SBX}/pty?cols=0", 4400, "invalid_request"),
        (f"/v1/tasks/{TSK}/stream?from=x", 4400, "invalid_request"),
    ],
)
async def test_websocket_with_a_key_says_what_is_wrong(api: Api, path: str, code: int, name: str) -> None:
    path, _, query = path.partition("?")
    closed, reason = await closed_with(api.app, path, f"{query}&token={api.key}".lstrip("&"))
    assert (closed, reason["code"]) == (code, name)
    assert reason["detail"]


async def closed_with(app: FastAPI, path: str, query: str) -> tuple[int, dict[str, str]]:
    """Connect; how it is closed at once."""
    received: list[dict[str, str]] = [{"type": "websocket.connect"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, str]:
        return received.pop(0) if received else {"type": "websocket.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "asgi": {"version": "3.0"}, "scheme": "ws", "path": path, "headers": []}
    scope |= {"query_string": query.encode(), "server": ("hutch.test", 80), "client": None, "subprotocols": []}
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["type"] == "websocket.accept", "a close code reaches a browser only after this"
    assert len(sent[-1]["reason"].encode()) <= 123
    return sent[-1]["code"], json.loads(sent[-1]["reason"])
