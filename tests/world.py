"""An internet for one test: a namespace with a public address, to which only this host has a route, and a web server
in it that is slow on purpose."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

SERVE = """
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/silent":
            time.sleep(1000)
        size = 1 << 30 if self.path == "/slow" else 5
        self.send_response(200); self.send_header("Content-Length", str(size)); self.end_headers()
        if self.path != "/slow":
            self.wfile.write(b"quick")
        while self.path == "/slow":
            self.wfile.write(b"x" * 1000)
            time.sleep(0.05)
    def log_message(self, *args): pass
    def handle(self):
        try: super().handle()
        except OSError: pass
server = http.server.ThreadingHTTPServer(("", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Web:
    """Where the server is: `/quick` answers and keeps the connection, `/slow` never ends, `/silent` never begins."""

    address: str
    port: int


@contextlib.contextmanager
def web() -> Iterator[Web]:
    """Everything of it is gone afterwards."""
    tag, host, number = secrets.token_hex(3), secrets.randbelow(250), secrets.randbelow(250)
    space, link, net, address = f"htweb-{tag}", f"htw{tag}", f"100.126.{number}", f"26.{host}.{number}.26"
    _run("ip", "netns", "add", space)
    try:
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "addr", "add", f"{net}.1/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        _run("ip", "-n", space, "addr", "add", f"{net}.2/30", "dev", "eth0")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", space, "addr", "add", f"{address}/32", "dev", "lo")
        _run("ip", "route", "add", f"{address}/32", "via", f"{net}.2")
        _run("ip", "-n", space, "route", "add", "default", "via", f"{net}.1")
        command = ["nsenter", f"--net=/run/netns/{space}", sys.executable, "-I", "-S", "-c", SERVE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield Web(address, int(process.stdout.readline()))
            finally:
                process.kill()
    finally:
        subprocess.run(["ip", "link", "del", link], capture_output=True)
        _run("ip", "netns", "del", space)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
