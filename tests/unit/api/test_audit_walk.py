"""Every route that is mounted, on every surface: what is called is in the audit log, or it stands here why not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from hutch.control.audit import guest_call
from hutch.control.ports import Door
from hutch.e2b.app import create_e2b_app
from hutch.gateway.access import check_access
from hutch.gateway.refusals import Refusal
from hutch.http1.heads import Request
from hutch.model import CODE_PORT, GUEST_PORT, ResourcesOverride
from hutch.settings import Settings
from hutch_guest import routes as guest
from hutch_guest.envd import filesystem, process
from tests.unit.api.conftest import Api
from tests.unit.api.test_audit import SANDBOX, api, records

__all__ = ["api"]

PUBLIC = {
    ("GET", "/healthz"): "says that the server runs; needs no key, and tells nothing of anybody",
    ("GET", "/health"): "the same, as E2B's API has it",
    ("GET", "/openapi.json"): "a file; needs no key",
    ("GET", "/.well-known/openid-configuration"): "a file; needs no key",
    ("GET", "/.well-known/jwks.json"): "a file; needs no key",
    ("POST", "/identity/introspect"): "answers whether a token holds; changes nothing, and who asks has no key",
}
"""Calls of Hutch's API and E2B's of which nothing is recorded."""
CARRYING_ON = {
    "/health": "a read of nothing",
    "/metrics": "a read of figures",
    "/process.Process/SendInput": "more input of a command whose start is recorded",
    "/process.Process/StreamInput": "more input of a command whose start is recorded",
}
"""The same of calls by the gateway."""
SOCKETS = ("/v1/sandboxes/{sandbox_id}/pty", "/v1/tasks/{task_id}/stream")
"""One passes the same layer as the others: `test_a_websocket_is_recorded_before_it_is_open`."""
SAMPLES = {
    "sandbox_id": SANDBOX,
    "task_id": f"tsk_{'a' * 22}",
    "exec_id": f"exe_{'a' * 22}",
    "port": "80",
    "method": "x",
}


@pytest.fixture
async def tenant(api: Api) -> AsyncIterator[dict[str, Any]]:
    """A volume and a template, with what opens them."""
    control = api.app.state.control
    volume = await control.volumes.create("data", org="org_default")
    template, _ = await control.builds.request("org_default", "walked", [], ResourcesOverride())
    link = control.builds.uploads.query("org_default", template.id, "abc")
    token = control.volumes.token(volume.id)
    yield {"volume": volume.id, "template": template.id, "link": link, "token": token}


def mounted(app: Any) -> list[tuple[str, str]]:
    """Methods and paths; a WebSocket's method is `WS`. FastAPI keeps the routers that it was given whole."""
    found: list[tuple[str, str]] = []
    for route in app.routes:
        if (router := getattr(route, "original_router", None)) is not None:
            found += mounted(router)
        elif isinstance(route, WebSocketRoute):
            found.append(("WS", route.path))
        else:
            assert isinstance(route, Route), f"{route} is walked by nobody"
            found += [(method, route.path) for method in sorted((route.methods or set()) - {"HEAD"})]
    return found


async def recorded(api: Api, method: str, path: str, **options: Any) -> list[str]:
    """The outcomes that the call has left in the log."""
    before = (await records(api))[-1].seq
    await api.client.request(method, path, **options)
    return [each.outcome for each in await records(api, before) if each.action in ("call", "volume", "template")]


async def test_every_route_of_hutchs_own(api: Api) -> None:
    walked = mounted(api.app)
    assert len(walked) > 60
    for method, path in walked:
        if method == "WS":
            assert path in SOCKETS
            continue
        target = re.sub(r"{(\w+)(:\w+)?}", lambda found: SAMPLES.get(found[1], "x"), path)
        outcomes = await recorded(api, method, target)
        assert bool(outcomes) is ((method, path) not in PUBLIC), f"{method} {path} is in no log"
        assert method == "GET" or not outcomes or outcomes[0] == "begun", f"{method} {path} is recorded when it is done"
    assert {route for route in PUBLIC if route not in walked} == {("GET", "/health")}


async def test_every_route_of_e2bs(api: Api, settings: Settings, tenant: dict[str, Any]) -> None:
    e2b: Starlette = create_e2b_app(settings, api.app.state.control, lambda: api.app.state.keys)
    walked = mounted(e2b)
    assert len(walked) > 40
    for method, path in sorted(walked, key=lambda each: each[0] == "DELETE"):
        given: dict[str, Any] = {"headers": {"X-API-Key": api.key}}
        sample = tenant["template"] if path.startswith(("/templates", "/v2/templates")) else SANDBOX
        if path.startswith("/volumecontent"):
            sample = tenant["volume"]
            given = {"headers": {"Authorization": f"Bearer {tenant['token']}"}, "params": {"path": "/x"}}
        target = re.sub(r"{id(:path)?}", sample, path).replace("{hash}", "abc")
        if method == "PUT" and path.endswith("/files/{hash}"):
            target, given = f"{target}?{tenant['link']}", {"content": b"some bytes", "headers": {"Authorization": ""}}
        outcomes = await recorded(api, method, re.sub(r"{\w+(:path)?}", "x", target), **given)
        assert bool(outcomes) is ((method, path) not in PUBLIC), f"{method} {path} is in no log"
        assert method == "GET" or not outcomes or outcomes[0] == "begun", f"{method} {path} is recorded when it is done"
    sent = [each for each in await records(api, action="template") if each.subject == tenant["template"]]
    assert [each.outcome for each in sent] == ["begun", "sent 10 bytes"]
    assert "signature" not in str(sent)


def test_every_call_that_the_gateway_lets_pass_to_a_guest() -> None:
    door = Door(SANDBOX, "org", True, True, True, True, None, "token", "traffic")
    services = {"process.Process": process._METHODS, "filesystem.Filesystem": filesystem._METHODS}
    calls = [("POST", f"/{service}/{method}") for service, methods in services.items() for method in methods]
    calls += [*guest._STATIC, *guest._ENVD]
    passing = set()
    for method, path in calls:
        request = Request(method.encode(), path.encode(), 1, [(b"X-Access-Token", b"token")])
        try:
            check_access(request, door, GUEST_PORT)
        except Refusal:
            assert path.startswith("/hutch/") or path in ("/init",), path
            continue
        passing.add(path)
        event = guest_call(door.org, door.sandbox_id, method, path)
        assert (event is None) == (path in CARRYING_ON), path
    assert set(CARRYING_ON) <= passing and len(passing) > 15
    assert guest_call(door.org, door.sandbox_id, "POST", "/execute") is not None, f"running code by port {CODE_PORT}"
