"""The node's calls to a guest that carry a disk: packing it, putting it back, listing what has changed on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from hutch.errors import GuestUnavailable
from hutch.node.disk import archive, listing
from hutch.node.disk.archive import DiskManifest
from hutch.node.disk.comparing import Listing
from hutch.node.disk.entries import Hostile
from hutch.node.disk.feed import read_in_thread
from hutch.node.guest import GuestClient
from hutch.pieces import in_pieces

_CHANGES = "/hutch/changes"
_LEAST_SECONDS = 60.0
_LISTING_SECONDS = 120.0
_SLOWEST = 8 << 20
"""Bytes a second, below which a guest is given up."""
_MOST_PACKING_SECONDS = 900.0
"""However much the disk may hold: the sandbox's other calls wait for so long."""
_MOST_ANSWER = 64 << 10


class GuestDisk:
    """On top of `GuestClient`. All raise `GuestUnavailable` where the guest does not do what is asked."""

    def __init__(self, guests: GuestClient) -> None:
        self._guests = guests

    async def pack(self, address: str, token: str, into: Path, most: int) -> DiskManifest:
        """All that was written, into the directory `into`; the sandbox stands still from here on. `most`: bytes of
        content. Raises also `OSError`."""
        path = f"{_CHANGES}/pack?still=1"
        with _distrusted("the disk cannot be packed"):
            seconds = min(_seconds(most), _MOST_PACKING_SECONDS)
            async with self._guests.opened("GET", address, path, token, seconds) as response:
                return await read_in_thread(_pieces(response), lambda source: archive.write(source, into, most))

    async def restore(self, address: str, token: str, directory: Path) -> None:
        """Put a snapshot's disk back. Raises also `SnapshotCorrupt`, `OSError`."""
        manifest = await asyncio.to_thread(archive.read_manifest, directory)
        seconds = _seconds(manifest.pages_bytes + manifest.index_bytes)
        body = in_pieces(archive.stream(directory))
        async with self._guests.opened("POST", address, f"{_CHANGES}/restore", token, seconds, body) as response:
            answer = await response.content.read(_MOST_ANSWER)
        try:
            said = json.loads(answer)
            restored = said.get("restored") if isinstance(said, dict) else None
        except ValueError:
            said, restored = answer[:300].decode("utf-8", "replace"), None
        if restored != manifest.entries:
            raise GuestUnavailable(f"the disk was not put back: {_printable(said)}")

    async def changes(self, address: str, token: str, *, still: bool) -> Listing:
        """What differs from the image. `still`: the rest of the sandbox stands still from here on. Raises also
        `LimitReached`."""
        path = f"{_CHANGES}?still=1" if still else _CHANGES
        with _distrusted("what has changed cannot be told"):
            async with self._guests.opened("GET", address, path, token, _LISTING_SECONDS) as response:
                return await read_in_thread(_pieces(response), listing.from_guest)

    async def read(self, address: str, token: str, layer: str, paths: list[str], most: int) -> list[bytes | None]:
        """The files `paths`, as they are (`layer` now) or as the image has them (image); None for what is no file, or
        has more than `most` bytes."""
        wanted = {"files": [{"path": path, "layer": layer} for path in paths], "most": most}
        body = _one(json.dumps(wanted).encode())
        call = ("POST", address, f"{_CHANGES}/read", token, _LISTING_SECONDS)
        with _distrusted("files cannot be read"):
            async with self._guests.opened(*call, body) as response:
                return await read_in_thread(_pieces(response), lambda s: archive.contents(s, len(paths), most))

    async def go_on(self, address: str, token: str) -> None:
        """End the standing still that `pack` has begun."""
        async with self._guests.opened("POST", address, f"{_CHANGES}/release", token, 5.0):
            pass


@contextmanager
def _distrusted(what: str) -> Iterator[None]:
    """Whatever a guest's answer cannot be read for is the guest's fault, also where no check of ours has found it."""
    try:
        yield
    except (Hostile, ValueError) as error:
        raise GuestUnavailable(f"{what}: {_printable(error)}") from error


def _printable(said: object) -> str:
    """For logs and answers, which are UTF-8."""
    return str(said)[:300].encode("utf-8", "backslashreplace").decode()


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for piece in response.content.iter_any():
        yield piece


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _seconds(size: int) -> float:
    return _LEAST_SECONDS + size / _SLOWEST
