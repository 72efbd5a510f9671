"""How many files and sockets a process may have open."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """As many as the system lets us have without asking anybody: the limit of old (often 1024) is for programs that use
    `select`. The number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
