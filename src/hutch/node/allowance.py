"""How much of the node's disk the snapshots of one organisation may take.

What somebody asked for is refused when the organisation has had its share, and checkpoints are: their task goes on
without. Pauses are not, or a sandbox that nobody uses would cost more than one that is used; nor is what a rollback
replaces, for it is the way back. Instead less of those two is kept: see `Retention`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hutch.errors import LimitReached
from hutch.model import SnapshotReason
from hutch.snapshots import SnapshotStore

_ALWAYS = (SnapshotReason.PAUSE, SnapshotReason.SAFETY, SnapshotReason.TEMPLATE)


class Allowance:
    """One a node. `most`: bytes for each organisation; None: as many as there is room for."""

    def __init__(self, store: SnapshotStore, most: int | None) -> None:
        self._store = store
        self.most = most
        self._coming: Counter[str] = Counter()

    @asynccontextmanager
    async def kept(self, org: str | None, reason: SnapshotReason, size: int) -> AsyncIterator[None]:
        """Room for a snapshot of at most `size` bytes while it is made. The last one may pass the limit: how small it
        gets is known only then. Raises `LimitReached`."""
        if self.most is None or org is None or reason in _ALWAYS:
            yield
            return
        used = await self._used(org) + self._coming[org]
        if used >= self.most:
            raise LimitReached(
                f"the snapshots of the organisation take {used} bytes on this node, of {self.most} that they may",
                hint="Delete some (`hutch snapshot ls`, `hutch snapshot rm`), or wait a minute for what was taken just "
                "now to be compressed. The operator sets HUTCH_SNAPSHOT_BYTES, and how long unnamed ones are kept "
                "(HUTCH_SNAPSHOT_KEEP...).",
                limit="snapshot_bytes",
                used=used,
                most=self.most,
            )
        self._coming[org] += size
        try:
            yield
        finally:
            self._coming[org] -= size

    async def is_used_up(self, org: str) -> bool:
        """Whether there is nothing left for an organisation."""
        return self.most is not None and await self._used(org) >= self.most

    async def _used(self, org: str) -> int:
        usage = await self._store.usage(org)
        return usage.stored_bytes + usage.pending_bytes
