"""Pause and connect of E2B's API, over a node that does what it is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from hutch.control.service import Control
from hutch.e2b import sandboxes, states
from hutch.e2b.context import Call, Server
from hutch.identity import Caller
from hutch.model import CreateSandbox, SandboxState, SnapshotKind
from hutch.settings import Settings
from hutch.store.e2b import E2bRow
from tests.unit.control.conftest import controlling
from tests.unit.control.model_node import ModelNode


async def called(
    handler: Callable[[Call], Awaitable[Response]], settings: Settings, control: Control, id: str, body: dict[str, Any]
) -> Response:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "path_params": {"id": id}}
    caller = Caller("key_" + "a" * 22, "org_default")
    return await handler(Call(Server(settings, control, cast(Any, None)), Request(scope, receive), caller))


@pytest.mark.parametrize("paused_with_memory", [True, False])
async def test_a_reboot_of_what_is_paused_brings_its_files_only(tmp_path: Any, paused_with_memory: bool) -> None:
    settings, node = Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run"), ModelNode()
    async with controlling(settings, node) as control:
        id = (await control.create(CreateSandbox())).id
        asleep = await called(states.pause, settings, control, id, {"memory": paused_with_memory})
        assert asleep.status_code == 204
        state = SandboxState.PAUSED if paused_with_memory else SandboxState.HIBERNATED
        assert (await control.get(id)).state is state
        woken = await called(states.connect, settings, control, id, {"timeout": 60, "memory": False})
        assert woken.status_code == 201
        box = await control.get(id)
        assert box.state is SandboxState.RUNNING and box.resumed is not None and box.resumed.memory is False
        assert node.pauses[-1].kind is SnapshotKind.DISK


async def test_one_that_was_woken_a_moment_ago_ends_by_its_time_out(tmp_path: Any) -> None:
    settings = Settings(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    async with controlling(settings, ModelNode()) as control:
        id = (await control.create(CreateSandbox())).id
        async with control.store.database.write() as connection:
            await control.store.e2b.insert(connection, E2bRow(id, 60.0, None, {}))
        shown = json.loads(bytes((await called(sandboxes.get, settings, control, id, {})).body))
        left = datetime.fromisoformat(shown["endAt"]) - datetime.now(UTC)
        assert timedelta(seconds=30) < left <= timedelta(seconds=60)
