"""How many bytes an organisation's volumes may have together."""

from __future__ import annotations

import errno
import threading


class Allowance:
    """Taken from and given back to by the threads of several volumes."""

    def __init__(self, limit: int, used: int = 0) -> None:
        self.limit = limit
        self._used = used
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes taken."""
        return self._used

    @property
    def left(self) -> int:
        """Bytes that may still be taken."""
        return max(0, self.limit - self._used)

    def take(self, amount: int) -> None:
        """Take so much, or give it back when it is less than 0. Raises `OSError` (ENOSPC); then nothing is taken."""
        with self._lock:
            if amount > 0 and self._used + amount > self.limit:
                raise OSError(errno.ENOSPC, "the organisation's volumes are full")
            self._used = max(0, self._used + amount)
