"""`hutch version`."""

from __future__ import annotations

import platform

from hutch import __version__
from hutch.cli.common import Json
from hutch.cli.console import out, print_json


def version(json: Json = False) -> None:
    """Print the version."""
    if json:
        print_json({"hutch": __version__, "python": platform.python_version()})
    else:
        out.print(f"hutch {__version__}")
