"""Start: listen first, then import the rest, so that the first caller waits in the backlog and not in a retry loop."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

TYPE_CHECKING = False  # `typing` would be one more import
if TYPE_CHECKING:
    from hutch_guest.disk import Layers

PORT = 49983
SPOOL_DIR = "/.hutch-run"
TEMPLATE = "/.hutch/template.json"
USAGE = (
    "usage: hutch_guest [--port N] [--host ADDRESS] [--spool-dir DIR] [--template FILE] [--token TOKEN] [--no-system]"
)


class Options:
    """What the command line says. PID 1 is started without arguments."""

    def __init__(self, arguments: list[str]) -> None:
        self.host = "0.0.0.0"
        self.port = PORT
        self.spool_dir = SPOOL_DIR
        self.template = TEMPLATE
        self.token: str | None = None
        self.system = os.getpid() == 1
        rest = list(arguments)
        while rest:
            name = rest.pop(0)
            if name == "--no-system":
                self.system = False
            elif name in ("--port", "--host", "--spool-dir", "--template", "--token") and rest:
                value: str | int = rest.pop(0)
                setattr(self, name[2:].replace("-", "_"), int(value) if name == "--port" else value)
            else:
                raise SystemExit(USAGE)


def listen(host: str, port: int) -> socket.socket:
    """The listening socket."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(512)
    listener.setblocking(False)
    return listener


def enter_disk() -> Layers | None:
    """Put everything that is written from here on onto the size-limited disk that the runtime has given."""
    disk = os.environ.pop("HUTCH_DISK", None)
    if not disk:
        return None
    from hutch_guest.disk import enter

    return enter(disk)


def prepare() -> Callable[[], None]:
    """Listen, make the disk ours, import everything; the answer serves for ever."""
    options = Options(sys.argv[1:])
    listener = listen(options.host, options.port)
    layers = None
    if options.system:
        layers = enter_disk()
    else:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
    from hutch_guest.lean import import_all

    import_all(options.system)
    from hutch_guest.server import run

    return lambda: run(options, listener, layers)


def main() -> None:
    """The program."""
    prepare()()
