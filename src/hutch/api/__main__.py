"""`python -m hutch.api`: the server process. Started as root, it makes itself the server's user first."""

from __future__ import annotations

import os
import sys

from hutch.api.launch import LaunchError, become_user
from hutch.settings import Settings


def main() -> int:
    """The exit status."""
    settings = Settings()
    try:
        if os.geteuid() == 0 and settings.server_user != "root":
            become_user(settings)
        from hutch.api.server import serve  # only now: root has no business with most of what this loads

        return serve(settings)
    except LaunchError as error:
        print(f"hutch api: {error}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
