"""All volumes of this server: each a directory, opened while somebody uses it, with a thread of its own then."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import ParamSpec, TypeVar

from hutch.volumes.allowance import Allowance
from hutch.volumes.tree import Tree

P = ParamSpec("P")
T = TypeVar("T")


class Volume:
    """An open one. All its work is done one after the other, in its own thread: a tenant that keeps its volume busy
    keeps nobody else waiting."""

    def __init__(self, id: str, tree: Tree, thread: ThreadPoolExecutor) -> None:
        self.id = id
        self.tree = tree
        self._thread = thread
        self.users = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call this in its thread. Cancelled, the work is done all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """When nobody uses it any more."""
        await self.run(self.tree.close)
        self._thread.shutdown(wait=False)


class Shelf:
    """The volumes below one directory. `limit`: bytes that an organisation's may have together."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._open: dict[str, Volume] = {}
        self._allowances: dict[str, Allowance] = {}
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def using(self, id: str, org: str, all_of_org: Callable[[], AsyncIterator[str]]) -> AsyncIterator[Volume]:
        """A volume, open. `all_of_org`: the ids of the organisation's, to count what they have. Raises `OSError`."""
        async with self._turn:
            volume = self._open.get(id)
            if volume is None:
                allowance = await self._allowance(org, all_of_org)
                thread = ThreadPoolExecutor(1, thread_name_prefix=id)
                tree = await asyncio.get_running_loop().run_in_executor(thread, Tree, self._root / id, allowance)
                volume = self._open[id] = Volume(id, tree, thread)
            volume.users += 1
        try:
            yield volume
        finally:
            await asyncio.shield(self._leave(volume))

    async def allowance(self, org: str, all_of_org: Callable[[], AsyncIterator[str]]) -> Allowance:
        """What an organisation's volumes have together, and may."""
        async with self._turn:
            return await self._allowance(org, all_of_org)

    async def remove(self, id: str, org: str) -> None:
        """Delete it, if it is there. Who is using it gets errors from here on."""
        async with self._turn:
            if (volume := self._open.pop(id, None)) is not None:
                await volume.close()
            used = await asyncio.to_thread(_remove, self._root / id)
            if (allowance := self._allowances.get(org)) is not None:
                allowance.take(-used)

    async def close(self) -> None:
        """Close all that is open."""
        async with self._turn:
            for volume in list(self._open.values()):
                await volume.close()
            self._open.clear()

    async def _leave(self, volume: Volume) -> None:
        async with self._turn:
            volume.users -= 1
            if volume.users == 0 and self._open.get(volume.id) is volume:
                del self._open[volume.id]
                await volume.close()

    async def _allowance(self, org: str, all_of_org: Callable[[], AsyncIterator[str]]) -> Allowance:
        known = self._allowances.get(org)
        if known is None:
            directories = [self._root / id async for id in all_of_org()]
            used = await asyncio.to_thread(_used, directories)
            known = self._allowances[org] = Allowance(self._limit, used)
        return known


def _used(directories: Iterable[Path]) -> int:
    """Opening one also ends what a process that has died had open in it."""
    return sum(_used_by(directory) for directory in directories if (directory / "tree.db").exists())


def _used_by(directory: Path) -> int:
    with closing(Tree(directory, Allowance(0))) as tree:
        return tree.used


def _remove(directory: Path) -> int:
    if not directory.exists():
        return 0
    used = _used_by(directory) if (directory / "tree.db").exists() else 0
    shutil.rmtree(directory)
    return used
