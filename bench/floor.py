"""The floor under E2B's client: the same calls on a plain process of this machine, without a sandbox, a gateway, a
node. The guest's own program serves commands and files; what makes and ends sandboxes says yes and does nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_HANDLE = {
    "templateID": "base",
    "sandboxID": "ifloor",
    "clientID": "floor",
    "envdVersion": "0.6.13",
    "envdAccessToken": "floor",
    "domain": None,
    "trafficAccessToken": None,
}
FILES = Path("/tmp/hutch-bench")
"""Where what is measured writes its files, here and in sandboxes."""
_NO_PROFILE = """
for file in .bash_profile .bash_login .profile; do
  [ ! -e "$HOME/$file" ] || mount --bind /dev/null "$HOME/$file"
done
exec "$@"
"""
"""A command is a login shell, and is not to run what this machine's user does at a login."""


class _Api(BaseHTTPRequestHandler):
    """Creates and kills, in name."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._answer(201, json.dumps(_HANDLE).encode())

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def floor() -> Iterator[dict[str, str]]:
    """What a program that was written for E2B has to set."""
    directory = Path(tempfile.mkdtemp(prefix="hb-floor-", dir="/tmp"))
    api = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    options = ["--no-system", "--host", "127.0.0.1", "--port", "0", "--spool-dir", str(directory), "--token", "floor"]
    plain = ["unshare", "--mount", "sh", "-c", _NO_PROFILE, "sh", sys.executable, "-m", "hutch_guest", *options]
    guest = subprocess.Popen(plain, stdout=subprocess.PIPE, text=True)
    try:
        assert guest.stdout is not None
        port = int(guest.stdout.readline())
        urls = {"E2B_API_URL": f"http://127.0.0.1:{api.server_port}", "E2B_SANDBOX_URL": f"http://127.0.0.1:{port}"}
        yield urls | {"E2B_API_KEY": "e2b_" + "0" * 40}
    finally:
        guest.terminate()
        guest.wait()
        api.shutdown()
        api.server_close()
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(FILES, ignore_errors=True)
