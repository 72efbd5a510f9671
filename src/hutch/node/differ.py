"""What differs between two points of a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from hutch.errors import Conflict, LimitReached, SandboxNotRunning
from hutch.model import Diff, DiffRequest, FileChange, FileState
from hutch.node.disk import texts
from hutch.node.disk.comparing import Difference, Listing, compare
from hutch.node.disk.entries import Entry, shown
from hutch.node.disk.listing import Kept
from hutch.node.disk.texts import MOST_FILE
from hutch.node.entry import Entry as Sandbox
from hutch.node.parts import Parts
from hutch.node.peeking import Guest, Peeker
from hutch.node.points import Bare, Contents, InMemory, Live, OnDisk, Point
from hutch.node.turns import Turns

_MOST_TEXT = 4 << 20
_BATCH = 32
_AT_ONCE, _OF_ONE = 3, 2
"""Comparisons on this node, and of one organisation; each may hold two listings and two hidden copies."""
_SECONDS = 240.0
"""Guests may answer as slowly as each call allows, and there are many calls."""
_WAITING_SECONDS = 240.0
"""With the above less than what the server waits."""


class Differ:
    """Answers `POST /sandboxes/{id}/diff`."""

    def __init__(self, parts: Parts, peeker: Peeker) -> None:
        self._parts = parts
        self._peeker = peeker
        self._kept = Kept(parts.home.listings)
        self._turns = Turns(_AT_ONCE, _OF_ONE)

    async def diff(self, sandbox: Sandbox | None, request: DiffRequest) -> Diff:
        """`sandbox` may be gone where both points are snapshots. Raises `SnapshotNotFound`, `SandboxNotRunning`,
        `Conflict` (two images), `LimitReached`, `GuestUnavailable`, and what keeps a snapshot from being thawed."""
        async with self._turns.turn(await self._org(sandbox, request), _WAITING_SECONDS):
            try:
                async with asyncio.timeout(_SECONDS):
                    return await self._compared(sandbox, request)
            except TimeoutError as error:
                raise LimitReached(
                    f"they were not compared within {_SECONDS:.0f} s",
                    hint="Compare less at once: below a `path`, or without texts.",
                    limit="diff_seconds",
                ) from error

    async def _org(self, sandbox: Sandbox | None, request: DiffRequest) -> str | None:
        """Whose turn it is."""
        if sandbox is not None:
            return sandbox.record.org
        known = request.to_snapshot or request.from_snapshot
        return (await self._parts.snapshots.get(known)).org if known is not None else None

    async def _compared(self, sandbox: Sandbox | None, request: DiffRequest) -> Diff:
        async with AsyncExitStack() as opened:
            before, after = await self._points(sandbox, request, opened)
            old, new = await before.listing(), await after.listing()
            found = await asyncio.to_thread(lambda: list(compare(old, new, request.path.strip("/"))))
            listed = found[: request.limit]
            changes = [_change(one) for one in listed]
            if request.text:
                sides = (_Side(before, old), _Side(after, new))
                changes = await _Texts(self._parts, self._peeker, sides, opened).add(listed, changes)
        counts = {kind: sum(one.change == kind for one in found) for kind in ("added", "changed", "removed")}
        return Diff(
            from_snapshot=request.from_snapshot,
            to_snapshot=request.to_snapshot,
            changes=changes,
            truncated=len(found) > len(listed),
            **counts,
        )

    async def _points(
        self, sandbox: Sandbox | None, request: DiffRequest, opened: AsyncExitStack
    ) -> tuple[Point, Point]:
        before: Point = Bare()
        if request.from_snapshot is not None:
            before = await self._snapshot(request.from_snapshot, opened)
        stands_on = sandbox.record.snapshot if sandbox is not None and sandbox.paused else None
        if (id := request.to_snapshot or stands_on) is not None:
            after = await self._snapshot(id, opened)
        elif sandbox is not None and sandbox.running:
            after = Live(self._parts, sandbox)
        else:
            raise SandboxNotRunning(f"it is {sandbox.view().state}" if sandbox is not None else "it is not there")
        if before.image is not None and before.image != after.image:
            raise Conflict("the two have different images, and cannot be compared")
        return before, after

    async def _snapshot(self, id: str, opened: AsyncExitStack) -> Point:
        record = await self._parts.snapshots.get(id)
        if record.disk:
            return OnDisk(self._parts, record, self._kept)
        return InMemory(self._parts, record, self._kept, self._peeker, opened)


class _Side:
    """A point, and what differs there from the image."""

    def __init__(self, point: Point, listing: Listing) -> None:
        self.point = point
        self.listing = listing


class _Texts:
    """Adds the diffs of texts, as far as an answer may have them."""

    def __init__(self, parts: Parts, peeker: Peeker, sides: tuple[_Side, _Side], opened: AsyncExitStack) -> None:
        self._disks = parts.disks
        self._peeker = peeker
        self._sides = sides
        self._opened = opened
        self._left = _MOST_TEXT
        self._booted: Guest | None = None

    async def add(self, found: Sequence[Difference], changes: list[FileChange]) -> list[FileChange]:
        """The same changes, with texts."""
        wanted = [number for number, one in enumerate(found) if _may_be_text(one)]
        done = {
            number: change.model_copy(update={"no_text": "too_large"})
            for number, (one, change) in enumerate(zip(found, changes, strict=True))
            if _is_too_large(one)
        }
        for start in range(0, len(wanted), _BATCH):
            numbers = wanted[start : start + _BATCH]
            if self._left <= 0:
                done |= {number: changes[number].model_copy(update={"no_text": "limit"}) for number in numbers}
                continue
            paths = [found[number].path for number in numbers]
            old = await self._read(self._sides[0], paths, [found[number].before for number in numbers])
            new = await self._read(self._sides[1], paths, [found[number].after for number in numbers])
            for number, before, after in zip(numbers, old, new, strict=True):
                done[number] = await self._one(found[number], changes[number], before, after)
        return [done.get(number, change) for number, change in enumerate(changes)]

    async def _one(
        self, found: Difference, change: FileChange, before: bytes | None, after: bytes | None
    ) -> FileChange:
        if self._left <= 0:
            return change.model_copy(update={"no_text": "limit"})
        missing = (found.before is not None and before is None) or (found.after is not None and after is None)
        if missing or not all(texts.is_text(data) for data in (before, after) if data is not None):
            return change.model_copy(update={"no_text": "binary" if not missing else "too_large"})
        text = await asyncio.to_thread(texts.unified, change.path.lstrip("/"), before, after)
        if text is None or len(text) > self._left:
            self._left = self._left if text is None else 0
            return change.model_copy(update={"no_text": "too_large" if text is None else "limit"})
        self._left -= len(text)
        return change.model_copy(update={"text": text})

    async def _read(self, side: _Side, paths: list[str], states: Sequence[Entry | None]) -> Contents:
        """The contents on one side; of what does not differ there from the image, the image's."""
        there = [path for path, state in zip(paths, states, strict=True) if state is not None]
        own = [path for path in there if path in side.listing]
        others = [path for path in there if path not in side.listing]
        contents = dict(zip(own, await side.point.read(own) if own else [], strict=True))
        contents |= dict(zip(others, await self._read_image(others) if others else [], strict=True))
        return [contents.get(path) for path in paths]

    async def _read_image(self, paths: list[str]) -> Contents:
        before, after = (side.point for side in self._sides)
        guest = await after.guest() or await before.guest() or self._booted
        if guest is None:
            assert isinstance(after, OnDisk)  # all others have a guest
            guest = await self._opened.enter_async_context(self._peeker.image(after.record))
            self._booted = guest
        return await self._disks.read(guest.address, guest.token, "image", paths, MOST_FILE)


def _is_too_large(one: Difference) -> bool:
    files = [state for state in (one.before, one.after) if state is not None and state["type"] == "file"]
    return any(state["size"] > MOST_FILE for state in files)


def _may_be_text(one: Difference) -> bool:
    """Whatever there is, is a file that is not too large."""
    there = [state for state in (one.before, one.after) if state is not None]
    return all(state["type"] == "file" and state["size"] <= MOST_FILE for state in there)


def _change(one: Difference) -> FileChange:
    return FileChange(path="/" + shown(one.path), change=one.change, before=_state(one.before), after=_state(one.after))


def _state(state: Entry | None) -> FileState | None:
    if state is None:
        return None
    target = state.get("target")
    return FileState(
        type=state["type"],
        size=state.get("size"),
        mode=f"{state['mode']:04o}",
        uid=state["uid"],
        gid=state["gid"],
        target=shown(target) if target is not None else None,
    )
