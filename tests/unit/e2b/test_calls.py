"""E2B's calls before a server without network, whose node is a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from hutch.api.e2b_paths import E2bPaths
from hutch.control.service import Control
from hutch.e2b.app import create_e2b_app
from hutch.errors import Conflict
from hutch.identity import Caller
from hutch.model.e2b import hutch_sandbox_id
from hutch.settings import Settings
from hutch.store.e2b import Wanted
from tests.unit.control.conftest import control, node, settings
from tests.unit.control.model_node import ModelNode

__all__ = ["control", "node", "settings"]


@pytest.fixture
async def api(settings: Settings, control: Control) -> AsyncIterator[httpx.AsyncClient]:
    async def check(_: str | None) -> Caller:
        return Caller(key_id="key_1", org="org_1")

    app = create_e2b_app(settings, control, lambda: cast(Any, SimpleNamespace(check=check)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://e2b") as client:
        yield client


async def made(api: httpx.AsyncClient, **fields: Any) -> str:
    answer = await api.post("/v2/sandboxes", json={"templateID": "base", "timeout": 600} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sandboxID"])


async def state(api: httpx.AsyncClient, id: str) -> str:
    return str((await api.get(f"/sandboxes/{id}")).json()["state"])


async def test_connect_waits_for_a_pause_that_is_under_way_and_undoes_it(
    api: httpx.AsyncClient, node: ModelNode
) -> None:
    id = await made(api, autoPause=True)
    door = node.doors["pause"] = asyncio.Event()
    assert (await api.post(f"/sandboxes/{id}/timeout", json={"timeout": 0})).status_code == 204
    async with asyncio.timeout(5):
        while not node.calls["pause"]:
            await asyncio.sleep(0.05)
    connecting = asyncio.create_task(api.post(f"/sandboxes/{id}/connect", json={"timeout": 600}))
    await asyncio.sleep(0.1)
    door.set()
    assert (await connecting).status_code == 201
    assert await state(api, id) == "running"


async def test_a_timeout_that_comes_too_late_for_a_pause_is_told_so(api: httpx.AsyncClient, node: ModelNode) -> None:
    id = await made(api)
    door = node.doors["pause"] = asyncio.Event()
    pausing = asyncio.create_task(api.post(f"/sandboxes/{id}/pause", json={}))
    async with asyncio.timeout(5):
        while not node.calls["pause"]:
            await asyncio.sleep(0.01)
    moving = asyncio.create_task(api.post(f"/sandboxes/{id}/timeout", json={"timeout": 600}))
    await asyncio.sleep(0.1)
    door.set()
    assert [(await each).status_code for each in (pausing, moving)] == [204, 404]


async def test_only_a_sandbox_that_was_paused_before_is_a_conflict(
    api: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await made(api)
    with monkeypatch.context() as patched:

        async def refuse(*_: Any, **__: Any) -> None:
            raise Conflict("a task goes on in it")

        patched.setattr(control, "pause", refuse)
        assert (await api.post(f"/sandboxes/{id}/pause", json={})).status_code == 400
    for status in (204, 409):
        assert (await api.post(f"/sandboxes/{id}/pause", json={})).status_code == status


@pytest.mark.parametrize("digits", ["1" * 5000, "-1" + "0" * 320, "1" + "0" * 320, "-1"])
async def test_numbers_that_are_none_are_refused(api: httpx.AsyncClient, digits: str) -> None:
    id = await made(api)
    body = f'{{"timeout": {digits}, "duration": {digits}}}'.encode()
    for path in ("timeout", "refreshes", "connect"):
        assert (await api.post(f"/sandboxes/{id}/{path}", content=body)).status_code == 400
    assert (await api.post("/v2/sandboxes", content=body)).status_code == 400
    assert hutch_sandbox_id(id) is not None and await state(api, id) == "running"


async def test_a_path_that_is_none_goes_to_hutch_itself() -> None:
    asked: list[str] = []

    def app(name: str) -> Any:
        async def called(scope: Any, receive: Any, send: Any) -> None:
            asked.append(name)

        return called

    paths = E2bPaths(app("hutch"), app("e2b"))
    for path in ("*", "", "/", "/sandboxes", "/v1/sandboxes"):
        await paths({"type": "http", "path": path}, cast(Any, None), cast(Any, None))
    assert asked == ["hutch", "hutch", "hutch", "e2b", "hutch"]


async def test_forks_are_in_the_lists_before_they_run(
    api: httpx.AsyncClient, control: Control, node: ModelNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is killed meanwhile leaves none that nobody sees, and whose time is never over."""

    async def environment(*_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(control, "environment", environment)
    id = await made(api)
    door = node.doors["boot"] = asyncio.Event()
    before = node.calls["boot"]
    forking = asyncio.create_task(api.post(f"/sandboxes/{id}/fork", json={"count": 2, "timeout": 77}))
    async with asyncio.timeout(5):
        while node.calls["boot"] < before + 2:
            await asyncio.sleep(0.01)
    found = await control.store.e2b.page("org_1", Wanted(["starting", "running"]), 10, None)
    assert sorted(extras.timeout for _, extras in found) == [77.0, 77.0, 600.0]
    door.set()
    assert (await forking).status_code == 201


async def test_a_fork_that_is_asked_for_again_changes_nothing(
    api: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    async def environment(*_: Any, **__: Any) -> dict[str, str]:
        return {"A": "1", "E2B_SANDBOX_ID": "parent's"}

    async def set_environment(id: str, env: dict[str, str], **_: Any) -> None:
        assert env == {"A": "1"}
        if told.count(id):
            raise Conflict("it was paused meanwhile")
        told.append(id)

    monkeypatch.setattr(control, "environment", environment)
    monkeypatch.setattr(control, "set_environment", set_environment)
    id = await made(api)
    answers = [
        await api.post(f"/sandboxes/{id}/fork", json={"count": 2}, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201] and answers[0].json() == answers[1].json()
    assert len(told) == 2


async def test_filters_that_find_nothing(api: httpx.AsyncClient) -> None:
    """As docs/e2b.md says."""
    id = await made(api)
    snapshot = (await api.post(f"/sandboxes/{id}/snapshots", json={})).json()["snapshotID"]
    fork = await made(api, templateID=snapshot)

    async def found(path: str, **query: str) -> list[str]:
        answer = await api.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return sorted(each.get("sandboxID") or each["snapshotID"] for each in answer.json())

    assert await found("/v2/sandboxes", template="standard") == sorted([id, fork])
    assert await found("/v2/sandboxes", template=snapshot) == [fork]
    assert await found("/v2/sandboxes", template="snp_no-such") == await found("/v2/sandboxes", template="none") == []
    assert await found("/snapshots", sandboxID=id) == [snapshot]
    assert await found("/snapshots", sandboxID="nonsense") == []


async def test_the_log_of_a_sandbox_is_its_life(api: httpx.AsyncClient) -> None:
    id = await made(api)
    assert (await api.post(f"/sandboxes/{id}/snapshots", json={"name": "before"})).status_code == 201
    assert (await api.post(f"/sandboxes/{id}/pause", json={})).status_code == 204
    said = (await api.get(f"/v2/sandboxes/{id}/logs")).json()["logs"]
    messages = [each["message"] for each in said if each["level"] == "info"]
    assert messages[:2] == ["sandbox created", "sandbox started"] and messages[-1] == "sandbox paused"
    assert {"name": "before"}.items() <= next(each for each in said if "snapshot" in each["message"])["fields"].items()
    older = (await api.get(f"/sandboxes/{id}/logs?limit=1")).json()
    assert [each["line"] for each in older["logs"]] == ["sandbox created"] and len(older["logEntries"]) == 1
    for query, first in (
        ("direction=backward&limit=1", "sandbox paused"),
        ("search=start&level=info", "sandbox started"),
    ):
        assert (await api.get(f"/v2/sandboxes/{id}/logs?{query}")).json()["logs"][0]["message"] == first
    assert (await api.get(f"/v2/sandboxes/{id}/logs?cursor=99999999999999")).json()["logs"] == []
    for wrong in ("direction=up", "level=loud", "limit=x"):
        assert (await api.get(f"/v2/sandboxes/{id}/logs?{wrong}")).status_code == 400
