"""The guest's log: standard error, which the runtime gives it as a file or as nothing at all."""

from __future__ import annotations

import sys


def log(message: str) -> None:
    """One line."""
    if sys.stderr is not None:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()


def log_exception(error: BaseException) -> None:
    """An error nobody expected, with where it came from."""
    import traceback

    log("".join(traceback.format_exception(error)).rstrip())
