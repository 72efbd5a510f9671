"""`python -m hutch.node`: the host daemon, as root. `--remove-all` ends every sandbox that runs and exits, which
SIGUSR1 makes one do that serves."""

from __future__ import annotations

import argparse
import sys

import structlog
import uvloop

from hutch.node.daemon import Daemon
from hutch.node.home import StartError
from hutch.node.logs import configure_logs
from hutch.settings import get_settings


def main() -> int:
    """Run until told to stop; 1 when it cannot start, and why on standard error."""
    parser = argparse.ArgumentParser(prog="hutch.node", description=__doc__)
    parser.add_argument("--remove-all", action="store_true", help="end what runs on this node and clean the host")
    arguments = parser.parse_args()
    settings = get_settings()
    configure_logs(settings)
    daemon = Daemon(settings)
    try:
        uvloop.run(daemon.remove_all() if arguments.remove_all else daemon.run())
    except StartError as error:
        structlog.get_logger("hutch.node").error("the node cannot start", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
