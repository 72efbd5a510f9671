"""One server on one SQLite database: a lock that the kernel lets go of when its holder dies, however it dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

from hutch.errors import Conflict

_PATIENCE = 10.0


async def hold(path: Path) -> int:
    """Take the lock, waiting a little for a server that is just stopping; the descriptor that holds it. Raises
    `Conflict`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError as error:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Conflict(
                    f"another server uses {path.parent}", hint="Stop it, or give this one another `data_dir`."
                ) from error
            await asyncio.sleep(0.1)
