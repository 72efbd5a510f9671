"""A bound on how often something may be done."""

from __future__ import annotations


class Bucket:
    """Holds `burst` tokens and gets `rate` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Whether one was left, which is gone then."""
        self._left = min(self._burst, self._left + self._rate * max(0.0, now - self._at))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def spend(self, now: float, amount: float) -> bool:
        """Take what has been used already; whether it was there."""
        left = min(self._burst, self._left + self._rate * max(0.0, now - self._at)) - amount
        self._left, self._at = max(left, -self._burst), now
        return left >= 0
