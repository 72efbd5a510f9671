"""Follow a stream through lost connections: begin again from the last offset, without gap or double."""

from __future__ import annotations

from collections.abc import AsyncIterator

from hutch.errors import HutchError, RequestTimeout, ServerUnavailable
from hutch.sdk._async.transport import LOST, PATIENCE
from hutch.sdk._shim import aio

FOLLOW_PATIENCE = 4 * PATIENCE
"""How long a followed stream keeps trying while nothing comes."""


class AsyncPatience:
    """Whether to try again, and the waiting between tries."""

    def __init__(self, deadline: float | None = None) -> None:
        self._deadline = deadline
        self.progress()

    def progress(self) -> None:
        """Something came: patience is full again."""
        self._since = aio.clock()
        self._delay = 0.05

    def check(self) -> None:
        """Raise when the caller's own time is up."""
        if self._deadline is not None and aio.clock() >= self._deadline:
            raise RequestTimeout("the time given for waiting is over")

    def left(self, most: float) -> float:
        """Seconds that one read may take."""
        self.check()
        return most if self._deadline is None else max(0.05, min(most, self._deadline - aio.clock()))

    async def after(self, failure: Exception) -> None:
        """Wait before the next try, or raise `failure` when it is of no use."""
        self.check()
        if isinstance(failure, HutchError) and not failure.retryable:
            raise failure
        if aio.clock() - self._since > FOLLOW_PATIENCE:
            raise as_error(failure) from failure
        await aio.sleep(self._delay)
        self._delay = min(2.0, self._delay * 2)


def as_error(failure: Exception) -> HutchError:
    """What the caller sees of a stream that is lost for good."""
    if isinstance(failure, HutchError):
        return failure
    return ServerUnavailable(f"the connection was lost: {failure or type(failure).__name__}")


async def lines_of(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
    """Lines, split at newlines only: text inside JSON may hold other characters that Python calls line ends."""
    rest: list[str] = []
    async for chunk in chunks:
        *whole, last = chunk.split("\n")
        for line in whole:
            yield ("".join(rest) + line).removesuffix("\r")
            rest = []
        rest.append(last)


RETRY = (*LOST, HutchError)
"""What `AsyncPatience.after` judges."""
