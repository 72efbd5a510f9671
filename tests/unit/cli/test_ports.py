"""`hutch port` against a scripted server."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from aiohttp import web

from tests.unit.cli.conftest import Hutch
from tests.unit.sdk.server import SANDBOX_ID, Server, sandbox

BOX = f"/v1/sandboxes/{SANDBOX_ID}"
ROUTING, TOKEN = {"e2b-sandbox-id": "i" + "a" * 22, "e2b-sandbox-port": "8000"}, {"e2b-traffic-access-token": "t0ken"}


def way(public: bool) -> dict[str, Any]:
    headers = ROUTING if public else ROUTING | TOKEN
    token = {"traffic_header": "e2b-traffic-access-token", "traffic_token": "t0ken"}
    return {"port": 8000, "public": public, "url": "http://box.test:8701", "headers": headers, **token}


@pytest.fixture
def sent(at: Server) -> list[Any]:
    sent: list[Any] = []

    @at.on("GET", BOX)
    async def get(request: web.Request) -> web.StreamResponse:
        return web.json_response(sandbox())

    @at.on("GET", f"{BOX}/ports")
    async def listed(request: web.Request) -> web.StreamResponse:
        return web.json_response({"public": False, "ports": [way(True)]})

    @at.on("GET", f"{BOX}/ports/8000")
    async def told(request: web.Request) -> web.StreamResponse:
        return web.json_response(way(False))

    @at.on("PUT", f"{BOX}/ports/8000")
    async def put(request: web.Request) -> web.StreamResponse:
        sent.append(await request.json())
        return web.json_response(way(sent[-1]["public"]))

    return sent


def test_a_port_is_told_as_the_command_that_reaches_it(hutch: Hutch, sent: list[Any]) -> None:
    given = [f"{name}: {value}" for name, value in (ROUTING | TOKEN).items()]
    words = shlex.split(hutch("port", SANDBOX_ID, "8000").out)
    assert words[:2] == ["curl", "http://box.test:8701"] and [each for each in words[2:] if each != "-H"] == given
    assert hutch("port", SANDBOX_ID, "8000", "--json").json == way(False) and sent == []
    assert "t0ken" not in hutch("port", SANDBOX_ID, "8000", "--public").out
    assert hutch("port", SANDBOX_ID, "8000", "--private", "--json").json == way(False)
    assert sent == [{"public": True}, {"public": False}]


def test_public_ones_are_listed(hutch: Hutch, sent: list[Any]) -> None:
    assert "8000" in hutch("port", SANDBOX_ID).out
    assert hutch("port", SANDBOX_ID, "--json").json == [way(True)]
    wrong = hutch("port", SANDBOX_ID, "--public")
    assert wrong.code == 1 and f"hutch port {SANDBOX_ID} 8000 --public" in wrong.err and sent == []
