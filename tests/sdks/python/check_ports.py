"""Ports of a sandbox, through the headers (there is no DNS in tests)."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable

from e2b import Sandbox

URL = os.environ["E2B_SANDBOX_URL"]


def fetch(sandbox_id: str, port: int, path: str = "/", **headers: str) -> tuple[int, bytes]:
    routing = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
    request = urllib.request.Request(URL + path, headers=routing | {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def serve(box: Sandbox, port: int, eventually: Callable[..., None], **headers: str) -> None:
    box.commands.run(f"mkdir -p /tmp/www; echo found > /tmp/www/page; cd /tmp/www; exec python3 -m http.server {port}",
                     background=True, timeout=0)  # fmt: skip
    eventually(lambda: fetch(box.sandbox_id, port, "/page", **headers)[0] == 200)


def test_a_public_port(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    status, body = fetch(sandbox.sandbox_id, 8123)
    assert status == 502 and "port is not open" in json.loads(body)["message"]
    serve(sandbox, 8123, eventually)
    assert fetch(sandbox.sandbox_id, 8123, "/page") == (200, b"found\n")
    assert sandbox.get_host(8123).startswith(f"8123-{sandbox.sandbox_id}.")


def test_a_port_for_the_sandbox_itself(sandbox: Sandbox, eventually: Callable[..., None]) -> None:
    """Many servers listen on localhost unless they are told otherwise."""
    for port, host in ((8124, "127.0.0.1"), (8125, "localhost")):
        sandbox.commands.run(f"exec python3 -m http.server {port} --bind {host} --directory /etc", background=True)
        eventually(lambda port=port: fetch(sandbox.sandbox_id, port, "/hostname")[0] == 200)
    assert sandbox.sandbox_id[1:] in fetch(sandbox.sandbox_id, 8124, "/hostname")[1].decode()


def test_a_private_port(own: Callable[..., Sandbox], eventually: Callable[..., None]) -> None:
    made = own(network={"allow_public_traffic": False})
    token = made.traffic_access_token
    assert token
    serve(made, 8000, eventually, e2b_traffic_access_token=token)
    assert fetch(made.sandbox_id, 8000, "/page")[0] == 403
    assert fetch(made.sandbox_id, 8000, "/page", e2b_traffic_access_token="x" * len(token))[0] == 403


def test_the_guest_is_not_reached_without_its_token(sandbox: Sandbox) -> None:
    assert fetch(sandbox.sandbox_id, 49983, "/health")[0] == 204
    for path in ("/metrics", "/envs", "/files?path=x"):
        assert fetch(sandbox.sandbox_id, 49983, path)[0] == 401
    assert fetch(sandbox.sandbox_id, 49983, "/hutch/processes")[0] == 404
    status, body = fetch("i" + "b" * 22, 49983, "/health")
    assert status == 502 and "was not found" in json.loads(body)["message"]
