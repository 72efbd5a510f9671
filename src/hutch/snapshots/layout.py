"""Where a node's snapshots lie.

<root>/index.db               SQLite: snapshots, their recipes, segments, chunks, packs
<root>/packs/<name>           compressed segments back to back; never changed once it has its name
<root>/hot/<snapshot>/        a snapshot's plain files, ready to thaw
<root>/tmp/<anything>         what is being written, or is being deleted; emptied when the store opens
<root>/lock                   held by the one process that has the store open
"""

from __future__ import annotations

import secrets
from pathlib import Path

PACKS, HOT, TMP = "packs", "hot", "tmp"


class Layout:
    """The paths below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.db"
        self.lock = root / "lock"
        self.packs = root / PACKS
        self.hot = root / HOT
        self.tmp = root / TMP

    def prepare(self) -> None:
        """Make the directories; the owner's only, as they hold the memory of sandboxes."""
        for directory in (self.root, self.packs, self.hot, self.tmp):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def temporary(self, stem: str) -> Path:
        """A path in `tmp` that nothing has yet."""
        return self.tmp / f"{stem}.{secrets.token_hex(8)}"

    def pack(self, name: str) -> Path:
        """The pack's file."""
        return self.packs / name

    def hot_copy(self, snapshot: str) -> Path:
        """The snapshot's plain files, when they are there."""
        return self.hot / snapshot
