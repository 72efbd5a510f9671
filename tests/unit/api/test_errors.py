"""Every answer that is not a success is a problem, whoever found it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from hutch.api.bodies import MAX_BODY
from hutch.model import new_id
from hutch.settings import Settings
from tests.unit.api.conftest import Api, running

SBX, EXE, TSK = new_id("sbx"), new_id("exe"), new_id("tsk")
FILES = f"/v1/sandboxes/{SBX}/files"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One for the whole file: nothing here is granted, so nothing is left behind, and an app takes long to build."""
    place = tmp_path_factory.mktemp("api")
    async with running(Settings(data_dir=place / "data", run_dir=place / "run")) as api:
        yield api


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, object] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["detail"] and problem["type"] == f"https://hutch.dev/errors/{code}"
    assert answer.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", f"/v1/sandboxes/{SBX}", "sandbox_not_found"),
        ("GET", "/v1/sandboxes/nonsense", "sandbox_not_found"),
        ("DELETE", f"/v1/sandboxes/{SBX}", "sandbox_not_found"),
        ("GET", f"/v1/sandboxes/{SBX}/exec", "sandbox_not_found"),
        ("GET", f"/v1/sandboxes/{SBX}/exec/{EXE}", "sandbox_not_found"),
        ("GET", f"/v1/sandboxes/{SBX}/exec/nonsense", "exec_not_found"),
        ("GET", f"/v1/sandboxes/{SBX}/exec/{EXE}/output", "sandbox_not_found"),
        ("POST", f"/v1/sandboxes/{SBX}/exec/{EXE}/stdin", "sandbox_not_found"),
        ("GET", f"{FILES}?path=/etc/passwd", "sandbox_not_found"),
        ("PUT", f"{FILES}?path=/x", "sandbox_not_found"),
        ("DELETE", f"{FILES}?path=/x", "sandbox_not_found"),
        ("GET", f"{FILES}/list?path=/", "sandbox_not_found"),
        ("GET", f"{FILES}/tar?path=/", "sandbox_not_found"),
        ("GET", f"/v1/tasks/{TSK}", "task_not_found"),
        ("GET", "/v1/tasks/nonsense", "task_not_found"),
        ("POST", f"/v1/tasks/{TSK}/cancel", "task_not_found"),
        ("GET", f"/v1/tasks/{TSK}/events", "task_not_found"),
        ("GET", f"/v1/tasks/{TSK}/outputs", "task_not_found"),
        ("GET", f"/v1/tasks/{TSK}/outputs/files?path=x", "task_not_found"),
        ("DELETE", "/v1/keys/key_x", "not_found"),
    ],
)
async def test_what_is_not_there_is_404(api: Api, method: str, path: str, code: str) -> None:
    assert_problem(await api.client.request(method, path), 404, code)


async def test_events_of_no_task_are_404_as_a_stream_too(api: Api) -> None:
    answer = await api.client.get(f"/v1/tasks/{TSK}/events", headers={"Accept": "text/event-stream"})
    assert_problem(answer, 404, "task_not_found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/node"), ("GET", "/v1/templates")])
async def test_node_that_is_down_is_503_and_may_be_tried_again(api: Api, method: str, path: str) -> None:
    answer = await api.client.request(method, path)
    assert assert_problem(answer, 503, "node_unavailable")["retryable"] is True
    assert answer.headers["retry-after"] == "1"


async def test_sandbox_cannot_be_made_without_a_node(api: Api) -> None:
    assert_problem(await api.client.post("/v1/sandboxes", json={}), 503, "node_unavailable")


async def test_no_such_path_is_a_problem(api: Api) -> None:
    assert assert_problem(await api.client.get("/v1/nothing"), 404, "invalid_request")["hint"]


async def test_wrong_method_is_a_problem_that_says_which_are_right(api: Api) -> None:
    answer = await api.client.patch("/v1/sandboxes")
    assert_problem(answer, 405, "invalid_request")
    assert answer.headers["allow"]


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b"\xff\xfe", b'{"template": NaN', b'"x"', b"[" * 100_000])
async def test_malformed_json_is_400(api: Api, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(await api.client.post("/v1/sandboxes", content=body, headers=headers), 400, "invalid_request")


async def test_wrong_content_type_says_what_would_be_right(api: Api) -> None:
    answer = await api.client.post("/v1/sandboxes", data={"template": "standard"})
    problem = assert_problem(answer, 400, "invalid_request")
    assert problem["field"] == "Content-Type" and "application/json" in str(problem["hint"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"lifetime": -1}, "lifetime"),
        ({"resources": {"memory_mib": 10**9}}, "resources.memory_mib"),
        ({"resources": {"cpus": "many"}}, "resources.cpus"),
        ({"tmplate": "standard"}, "tmplate"),
        ({"inputs": [{"type": "ftp"}]}, "inputs.0"),
    ],
)
async def test_wrong_field_is_named(api: Api, body: dict[str, object], field: str) -> None:
    assert assert_problem(await api.client.post("/v1/sandboxes", json=body), 400, "invalid_request")["field"] == field


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=100000", "state=flying", "label=noequals", "cursor=%00"]
)
async def test_wrong_query_is_400(api: Api, query: str) -> None:
    assert_problem(await api.client.get(f"/v1/sandboxes?{query}"), 400, "invalid_request")


@pytest.mark.parametrize("body", [r'{"template": "\ud800"}', r'{"\ud800": 1}', r'{"labels": {"\ud800": "x"}}'])
async def test_half_a_character_is_refused_and_not_choked_on(api: Api, body: str) -> None:
    answer = await api.client.post("/v1/sandboxes", content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "invalid_request")


async def test_path_with_a_slash_too_many_is_not_redirected(api: Api) -> None:
    assert_problem(await api.client.get("/v1/sandboxes/"), 404, "invalid_request")


async def test_declared_length_beyond_the_limit_is_413_unread(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(MAX_BODY + 1)}
    assert_problem(await api.client.post("/v1/sandboxes", content=b"{}", headers=headers), 413, "payload_too_large")


async def test_undeclared_body_beyond_the_limit_is_413(api: Api) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    answer = await api.client.post("/v1/sandboxes", content=endless(), headers=headers)
    assert_problem(answer, 413, "payload_too_large")


async def test_upload_beyond_the_limit_is_413_unread(api: Api) -> None:
    headers = {"Content-Length": str(1 << 50)}
    assert_problem(await api.client.post("/v1/uploads", content=b"", headers=headers), 413, "payload_too_large")


async def test_stream_and_background_exclude_each_other(api: Api) -> None:
    body = {"command": "true", "stream": True, "background": True}
    problem = assert_problem(await api.client.post(f"/v1/sandboxes/{SBX}/exec", json=body), 400, "invalid_request")
    assert problem["field"] == "background"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
async def test_bad_idempotency_key_is_400(api: Api, key: str) -> None:
    answer = await api.client.post("/v1/sandboxes", json={}, headers={"Idempotency-Key": key})
    assert assert_problem(answer, 400, "invalid_request")["field"] == "Idempotency-Key"


async def test_request_id_that_was_sent_comes_back(api: Api) -> None:
    answer = await api.client.get("/v1/keys", headers={"X-Request-Id": "trace-17"})
    assert answer.headers["x-request-id"] == "trace-17"
    answer = await api.client.get("/v1/keys", headers={"X-Request-Id": "bad id"})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_bug_of_ours_is_a_problem_with_the_request_id_and_without_its_text(api: Api) -> None:
    _add_bug(api.app)
    answer = await api.anonymous.get("/bug")
    problem = assert_problem(answer, 500, "internal_error")
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


def _add_bug(app: FastAPI) -> None:
    async def bug() -> None:
        raise ValueError("secret")

    app.add_api_route("/bug", bug)
