"""The ways to ports, as the API tells them: by headers, or by host names where there is a domain."""

from __future__ import annotations

from hutch.model import CODE_PORT, GUEST_PORT
from hutch.model.e2b import e2b_sandbox_id
from hutch.settings import Settings
from tests.unit.api.conftest import Api
from tests.unit.api.test_audit import api

__all__ = ["api"]


async def test_a_port_is_told_with_all_that_a_request_needs(api: Api, settings: Settings) -> None:
    made = (await api.client.post("/v1/sandboxes", json={"public_ports": [9000]})).json()["id"]
    base, token = f"/v1/sandboxes/{made}/ports", api.app.state.control.ports.traffic_token(made)
    routing = {"e2b-sandbox-id": e2b_sandbox_id(made), "e2b-sandbox-port": "8000"}
    seen = (await api.client.get(f"{base}/8000")).json()
    assert seen == {
        "port": 8000,
        "public": False,
        "url": f"http://hutch.test:{settings.gateway_port}",
        "headers": routing | {"e2b-traffic-access-token": token},
        "traffic_header": "e2b-traffic-access-token",
        "traffic_token": token,
    }
    opened = await api.client.put(f"{base}/8000", json={"public": True})
    assert opened.json() == seen | {"public": True, "headers": routing}
    assert opened.headers["cache-control"] == "no-store"
    listed = (await api.client.get(base)).json()
    assert listed["public"] is False and [each["port"] for each in listed["ports"]] == [8000, 9000]
    assert (await api.client.put(f"{base}/8000", json={"public": False})).json() == seen
    api.app.state.settings = settings.model_copy(update={"domain": "box.test:9"})
    named = (await api.client.get(f"{base}/8000")).json()
    assert named["url"] == f"https://8000-{e2b_sandbox_id(made)}.box.test:9"
    assert named["headers"] == {"e2b-traffic-access-token": token}


async def test_what_is_no_port_of_a_program_is_refused_by_its_field(api: Api) -> None:
    made = (await api.client.post("/v1/sandboxes", json={})).json()["id"]
    for port in (GUEST_PORT, CODE_PORT, 0, 65536, "http"):
        path = f"/v1/sandboxes/{made}/ports/{port}"
        for answer in (await api.client.put(path, json={"public": True}), await api.client.get(path)):
            assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
                400,
                "invalid_request",
                "port",
            )
        wrong = await api.client.post("/v1/sandboxes", json={"public_ports": [80, port]})
        assert (wrong.status_code, wrong.json()["field"]) == (400, "public_ports.1")
    assert (await api.client.get(f"/v1/sandboxes/{made}/ports")).json()["ports"] == []


async def test_nobody_elses_ports_are_told(api: Api) -> None:
    for path in ("/v1/sandboxes/sbx_" + "b" * 22 + "/ports", "/v1/sandboxes/sbx_" + "b" * 22 + "/ports/80"):
        assert (await api.client.get(path)).status_code == 404
        assert (await api.anonymous.get(path)).status_code == 401
