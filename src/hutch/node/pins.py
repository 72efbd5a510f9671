"""The images that sandboxes of this node were started from, kept for as long as one of them, or a snapshot, needs it.

The cache of images may be emptied at any time, and a template that is built anew has another image; but a snapshot is
worth nothing without the very image that its sandbox had.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path


class Pins:
    """One name for an image below a directory of the node's own: a hard link, so that it takes no space while the
    cache has it too. On another file system it is a copy, made once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = asyncio.Lock()

    def path(self, hash: str) -> Path:
        """Where the image with this hash is, if it was pinned."""
        return self._directory / f"{hash}.erofs"

    async def pin(self, image: Path, hash: str) -> Path:
        """The node's own name of the image. What `keep_only` is given has to know of it already. Raises `OSError`."""
        async with self._lock:
            return await asyncio.to_thread(self._pin, image, self.path(hash))

    async def keep_only(self, needed: Callable[[], Awaitable[set[str]]]) -> list[str]:
        """Remove all images but those whose hashes `needed` answers; the hashes of those removed."""
        async with self._lock:
            keep = await needed()
            return await asyncio.to_thread(self._keep, keep)

    def _pin(self, image: Path, pinned: Path) -> Path:
        if pinned.exists():
            return pinned
        try:
            os.link(image, pinned)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise
            partial = pinned.with_suffix(".partial")
            shutil.copyfile(image, partial)
            partial.replace(pinned)
        return pinned

    def _keep(self, needed: set[str]) -> list[str]:
        gone = []
        for path in self._directory.iterdir():
            if path.suffix != ".erofs" or path.stem not in needed:
                path.unlink(missing_ok=True)
                gone.append(path.stem)
        return gone
