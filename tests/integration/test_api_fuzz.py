"""Property-based fuzzing of the API: whatever is sent, the server answers, as its own OpenAPI document says it does.

Every operation is called with generated requests, right ones and wrong ones (with a fixed seed, so that a failure
comes again), first with no node behind the server, then with a real sandbox behind every id.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema
from tests.machine import Machine

from hutch.model import new_id

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]

SEED = 20261121
EXAMPLES = 10
"""For each operation, right requests and wrong ones alike."""
SECONDS = 45.0
"""For each run; the slower the machine, the fewer requests."""
SLOWEST = 20.0
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
NO_SANDBOX = {
    "sandbox_id": new_id("sbx"),
    "exec_id": new_id("exe"),
    "task_id": new_id("tsk"),
    "snapshot_id": new_id("snp"),
}
DESTRUCTIVE = {"POST /v1/sandboxes", "DELETE /v1/sandboxes/{sandbox_id}", "POST /v1/sandboxes/{sandbox_id}/fork"}
"""Not with a node: they would boot sandboxes by the dozen, or take away the one that the others need."""


@schemathesis.serializer("application/x-tar")
def tar_body(_: object, value: object) -> dict[str, object]:
    """A body that says it is a tar: whatever comes."""
    return {"data": value if isinstance(value, bytes) else str(value).encode()}


class Fuzz:
    """A server, and requests made from what it says of itself."""

    def __init__(self, machine: Machine) -> None:
        self._url = machine.url
        self._session = requests.Session()
        self._session.trust_env = False
        self._key = {"Authorization": f"Bearer {machine.key}"}
        document = self._session.get(f"{machine.url}/openapi.json", timeout=10).json()
        self._schema: OpenApiSchema = schemathesis.openapi.from_dict(document)
        self.statuses: dict[str, set[int]] = {}

    def run(self, ids: dict[str, str], without: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        """Call every operation, with these values in its path; raises what is wrong with an answer."""
        found = [result.ok() for result in self._schema.get_all_operations()]
        operations = [operation for operation in found if operation.label not in without]
        until = time.monotonic() + SECONDS
        for operation in operations:
            path = {name: value for name, value in ids.items() if f"{{{name}}}" in operation.path}
            for mode in GenerationMode:
                strategy = operation.as_strategy(generation_mode=mode, path_parameters=path)
                self._run(operation.label, strategy, until)

    def _run(self, label: str, strategy: Any, until: float) -> None:
        examples = EXAMPLES if time.monotonic() < until else 1

        @seed(SEED)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        @given(case=strategy)
        def send(case: Case) -> None:
            self._send(label, case)

        with suppress(Unsatisfiable):  # an operation that takes nothing cannot be called wrongly
            send()

    def _send(self, label: str, case: Case) -> None:
        if "follow" in (case.query or {}):
            case.query["follow"] = "false"  # an answer that waits for what does not come would only take time
        with suppress(KeyError, TypeError, ValueError):
            if 0 <= float(case.query["wait"]) <= 30:  # so would this; what is wrong stays as it is
                case.query["wait"] = "0"
        response = case.call(base_url=self._url, session=self._session, headers=self._key, timeout=SLOWEST)
        self.statuses.setdefault(label, set()).add(response.status_code)
        assert response.status_code != 500, (label, response.text)
        assert "x-request-id" in response.headers, label
        case.validate_response(response, checks=CHECKS)  # type: ignore[arg-type]


async def listening(machine: Machine) -> None:
    """Wait until the server answers; there need be no node."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError, ValueError, httpx.HTTPError):
                machine._find()
                async with machine.client() as client:
                    if (await client.get("/healthz")).status_code == 200:
                        return
            await asyncio.sleep(0.05)


async def test_every_request_is_answered_without_a_node() -> None:
    machine = Machine(server_user="nobody")
    try:
        machine.spawn("api")
        await listening(machine)
        fuzz = Fuzz(machine)
        fuzz.run(NO_SANDBOX)
        assert fuzz.statuses["GET /v1/node"] >= {503}
        assert 200 in fuzz.statuses["GET /v1/sandboxes"]
        assert 201 in fuzz.statuses["POST /v1/keys"]
        assert "internal error" not in machine.log("api")
    finally:
        await machine.stop()


async def test_every_request_is_answered_with_a_sandbox(standard_template: str) -> None:
    machine = Machine(server_user="nobody", slots_ahead="1")
    try:
        await machine.start()
        box = await machine.create(template=standard_template)
        async with machine.client() as client:
            body = {"command": "sleep 600", "background": True, "open_stdin": True}
            started = (await client.post(f"/v1/sandboxes/{box['id']}/exec", json=body)).json()
        fuzz = Fuzz(machine)
        fuzz.run(
            {"sandbox_id": box["id"], "exec_id": started["id"], "task_id": new_id("tsk"), "snapshot_id": new_id("snp")},
            DESTRUCTIVE,
        )
        assert 200 in fuzz.statuses["POST /v1/sandboxes/{sandbox_id}/pause"]
        assert {200, 202} & fuzz.statuses["POST /v1/sandboxes/{sandbox_id}/exec"]
        assert "internal error" not in machine.log("api")
    finally:
        await machine.stop()
