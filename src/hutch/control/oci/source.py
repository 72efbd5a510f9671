"""Where images come from: the interface, and a directory in the OCI image layout."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from hutch.control.oci.manifests import (
    MOST_JSON,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    for_us,
    is_index,
    read,
)
from hutch.errors import InputFailed

_CHUNK = 1 << 20


class Source(ABC):
    """One image. All raise `InputFailed`."""

    what: str
    """What it is called, for errors."""

    @abstractmethod
    async def top(self) -> tuple[bytes, str]:
        """The manifest or index, checked against its digest if that was asked for; and its media type."""

    @abstractmethod
    async def manifest_bytes(self, digest: str) -> bytes:
        """A manifest by its digest; not checked yet."""

    @abstractmethod
    def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob's bytes; not checked yet."""

    async def manifest(self) -> Manifest:
        """The image for this platform."""
        data, media_type = await self.top()
        for _ in range(3):
            if not is_index(data, media_type):
                return read(Manifest, data, f"the manifest of {self.what}")
            chosen = for_us(read(Index, data, f"the index of {self.what}"), self.what)
            data, media_type = checked(await self.manifest_bytes(chosen.digest), chosen.digest), chosen.media_type
        raise InputFailed(f"{self.what} lists lists of images")

    async def config(self, manifest: Manifest) -> ImageConfig:
        """Its configuration."""
        if manifest.config.size > MOST_JSON:
            raise InputFailed(f"the configuration of {self.what} is too large")
        async with aclosing(self.verified(manifest.config)) as pieces:
            data = b"".join([piece async for piece in pieces])
        return read(ImageConfig, data, f"the configuration of {self.what}")

    async def verified(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        """A blob, of the size and digest that it should have: what is wrong is known at its end."""
        sum, size = hashlib.sha256(), 0
        async with aclosing(self.blob(descriptor)) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > descriptor.size:
                    break
                sum.update(piece)
                yield piece
        if size != descriptor.size or f"sha256:{sum.hexdigest()}" != descriptor.digest:
            raise InputFailed(f"{self.what}: {descriptor.digest[:19]} is not what its digest says")


class Layout(Source):
    """A directory of the operator's, as `skopeo copy docker://... oci:DIRECTORY` makes it. `tag`: which of its images;
    None where it has one."""

    def __init__(self, directory: Path, tag: str | None, what: str) -> None:
        self._directory = directory
        self._tag = tag
        self.what = what

    async def top(self) -> tuple[bytes, str]:
        index = read(Index, await self._read(self._directory / "index.json"), f"the index of {self.what}")
        names = {each.annotations.get("org.opencontainers.image.ref.name"): each for each in index.manifests}
        chosen = names.get(self._tag) if self._tag is not None else None
        if chosen is None and (self._tag in (None, "latest")) and len(index.manifests) == 1:
            chosen = index.manifests[0]
        if chosen is None:
            raise InputFailed(f"{self.what}: its layout has no image of this tag")
        return checked(await self.manifest_bytes(chosen.digest), chosen.digest), chosen.media_type

    async def manifest_bytes(self, digest: str) -> bytes:
        return await self._read(self._path(digest))

    async def blob(self, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        try:
            file = await asyncio.to_thread(self._path(descriptor.digest).open, "rb")
        except OSError as error:
            raise InputFailed(f"{self.what}: {descriptor.digest[:19]} cannot be read") from error
        try:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk
        finally:
            file.close()

    def _path(self, digest: str) -> Path:
        return self._directory / "blobs" / "sha256" / digest.removeprefix("sha256:")

    async def _read(self, path: Path) -> bytes:
        def whole() -> bytes:
            with path.open("rb") as file:
                return file.read(MOST_JSON + 1)

        try:
            data = await asyncio.to_thread(whole)
        except OSError as error:
            raise InputFailed(f"{self.what}: {path.name[:20]} cannot be read") from error
        if len(data) > MOST_JSON:
            raise InputFailed(f"{self.what}: {path.name[:20]} is too large")
        return data


def checked(data: bytes, digest: str) -> bytes:
    """Raises `InputFailed` for anything else than this digest's."""
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise InputFailed(f"{digest[:19]} is not what its digest says")
    return data


async def bounded(pieces: AsyncIterator[bytes], most: int, what: str) -> bytes:
    """All of it. Raises `InputFailed`."""
    data = b""
    async for piece in pieces:
        data += piece
        if len(data) > most:
            raise InputFailed(f"{what} is too large")
    return data
