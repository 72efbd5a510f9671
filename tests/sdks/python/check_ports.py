"""Ports of a sandbox, through the headers (there is no DNS in tests)."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from e2b import Sandbox, SandboxException

from conftest import VERSION

URL = os.environ["E2B_SANDBOX_URL"]


def fetch(sandbox_id: str, port: int, path: str = "/", data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    routing = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}
    fields = routing | {k.replace("_", "-"): v for k, v in headers.items()}
    request = urllib.request.Request(URL + path, data, fields)
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


TLS_SERVER = """
import http.server, ssl, subprocess
made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /tmp/k -out /tmp/c -subj /CN=x"
subprocess.run(made, shell=True, check=True)
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), Echo)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/c", "/tmp/k")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.mark.skipif(VERSION < (2, 52), reason="an option of newer clients")
def test_ports_that_speak_tls(own: Callable[..., Sandbox], eventually: Callable[..., None]) -> None:
    made = own(network={"https_ports": [8443, 8000]})
    made.files.write("/tmp/server.py", TLS_SERVER)
    made.commands.run("exec python3 /tmp/server.py", background=True, timeout=0)
    body = b"\x00\xff" * 300_000
    eventually(lambda: fetch(made.sandbox_id, 8443, "/", data=body) == (200, body))
    made.update_network({"deny_out": ["0.0.0.0/0"]})
    assert made.get_info().network["https_ports"] == [8443, 8000]
    assert fetch(made.sandbox_id, 8443, "/", data=b"again") == (200, b"again")
    status, told = fetch(made.sandbox_id, 8001)
    assert status == 502 and "port is not open" in json.loads(told)["message"]
    made.commands.run("exec python3 -m http.server 8000", background=True, timeout=0)
    eventually(lambda: "does not speak TLS" in json.loads(fetch(made.sandbox_id, 8000)[1])["message"])
    with pytest.raises(SandboxException, match=r"400.*httpsPorts"):
        own(network={"https_ports": [49983]})


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
