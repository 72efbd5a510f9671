"""The server process, once it runs as its own user: settings, control, the app, uvicorn."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvicorn
from fastapi import FastAPI

from hutch.api.app import create_app
from hutch.api.launch import FIRST_KEY_FILE, GATEWAY_FD, LISTEN_FD, SERVER_FILE, TLS_FD, LaunchError, listen
from hutch.api.logs import configure_logs
from hutch.collecting import leave_out_what_is_loaded
from hutch.control.service import Control
from hutch.descriptors import raise_limit
from hutch.gateway import Gateway, Names, SecureDoor
from hutch.settings import Settings
from hutch.tls import FreshContext, TlsProblem, find_files, host_of

GRACE_SECONDS = 15
"""How long requests that are being answered may go on after SIGTERM. Streams end at once."""

_log = structlog.get_logger(__name__)


KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle. Longer than clients keep one (ours 15 s, many 60): a request that is sent just as
its connection is closed is lost, and a POST cannot be sent again."""


class Server(uvicorn.Server):
    """uvicorn, with our two announcements: where it listens, and that it is about to stop."""

    def __init__(self, app: FastAPI, address_file: Path, url: str, gateway: Gateway | None = None) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=1 << 20,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            forwarded_allow_ips=["127.0.0.1", "::1", "::ffff:127.0.0.1", urlsplit(url).hostname or ""],  # this machine
        )
        super().__init__(config)
        self._app = app
        self._address_file = address_file
        self._url = url
        self._gateway = gateway

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            if self._gateway is not None:
                await self._gateway.start()
            gateway = url_of(self._gateway.listener) if self._gateway is not None else None
            names = self._gateway.names if self._gateway is not None else None
            said = {"url": self._url, "gateway": gateway, "tls": names.url if names is not None else None}
            _write_address(self._address_file, said)
            leave_out_what_is_loaded()
            _log.info("listening", **said, pid=os.getpid())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        _log.info("stopping; sandboxes and agents go on")
        self._address_file.unlink(missing_ok=True)
        stopping: asyncio.Event = self._app.state.stopping
        stopping.set()
        if self._gateway is not None:
            await self._gateway.stop()
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; the exit status."""
    configure_logs(settings)
    sock = _inherited_socket(LISTEN_FD) or listen(settings.host, settings.port)
    gate = _inherited_socket(GATEWAY_FD) or listen(settings.host, settings.gateway_port, "HUTCH_GATEWAY_PORT")
    if not settings.host.startswith("127.") and settings.host not in ("::1", "localhost"):
        _log.warning("keys travel in clear text: put a proxy with TLS in front of the API", host=settings.host)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn takes them, stops, and raises them again when it is done
        signal.signal(number, lambda *_: sys.exit(0))
    address_file = Path(os.path.realpath(settings.run_dir / SERVER_FILE))
    door = _secure_door(settings, sock)
    if door is not None:
        settings = settings.model_copy(update={"domain": door.names.domain})
    if settings.public_url is None:
        settings = settings.model_copy(update={"public_url": door.names.url if door is not None else url_of(sock)})
    control = Control(settings)
    app = create_app(settings, control, deliver_first_key)
    app.state.gateway_port = gate.getsockname()[1]
    gateway = Gateway(control, gate, most=raise_limit() // 6, door=door)  # three descriptors each, half for all others
    server = Server(app, address_file, url_of(sock), gateway)
    server.run(sockets=[sock])
    return 0 if server.started else 1


def _secure_door(settings: Settings, api: socket.socket) -> SecureDoor | None:
    """The port with TLS, if there shall be one. Raises `LaunchError`."""
    if not settings.tls_wanted:
        return None
    try:
        host = host_of(settings)
        context = FreshContext(find_files(settings), host)
    except TlsProblem as problem:
        raise LaunchError(str(problem)) from problem
    listener = _inherited_socket(TLS_FD) or listen(settings.tls_host, settings.tls_port, "HUTCH_TLS_PORT")
    port = listener.getsockname()[1]
    told = settings.domain or host
    names = Names(told if ":" in told or port == 443 else f"{host}:{port}")
    return SecureDoor(listener, context, names, api)


def url_of(sock: socket.socket) -> str:
    """How programs on this machine reach the socket."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def deliver_first_key(key: str) -> None:
    """Hand the first key to whoever has started us: the file or descriptor that was named, else standard output."""
    target = os.environ.get(FIRST_KEY_FILE)
    if not target:
        print(f"The first API key (shown this once): {key}", flush=True)  # noqa: T201
        return
    fd = int(target) if target.isdecimal() else os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fchmod(fd, 0o600) if os.fstat(fd).st_uid == os.geteuid() else None
            file.truncate(0)
        file.write(key + "\n")


def _inherited_socket(name: str) -> socket.socket | None:
    fd = os.environ.get(name)
    return socket.socket(fileno=int(fd)) if fd else None


def _write_address(path: Path, said: dict[str, str | None]) -> None:
    """Whole or not at all: others wait for this file to appear."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({**said, "pid": os.getpid()}) + "\n")
    temporary.chmod(0o644)
    temporary.replace(path)
