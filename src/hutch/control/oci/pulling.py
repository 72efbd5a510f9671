"""From the name of an image to a template of the node that build steps can be run in."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hutch.control.builds.names import made_name
from hutch.control.builds.spec import Step, digest
from hutch.control.context import Context
from hutch.control.oci import flatten
from hutch.control.oci.layers import Budget, read_layer, unpack_blob
from hutch.control.oci.manifests import ImageConfig, Manifest
from hutch.control.oci.reference import parse_reference
from hutch.control.oci.registry import Registry
from hutch.control.oci.source import Layout, Source
from hutch.errors import InputFailed, InvalidRequest, from_problem
from hutch.model import MadeTemplate, Resources
from hutch.pieces import in_pieces
from hutch.store.templates import BuildRow

_RESOURCES = Resources(cpus=2, memory_mib=512, disk_mib=4096, pids=512)
_NAMESERVER = b"nameserver 169.254.169.253\n"
"""The node's own, as in every image."""

# What E2B's images have beside: the user `user` with `sudo`, and a login shell that keeps the PATH that it is given.
_PROVISION = """
set -e
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
id user >/dev/null 2>&1 || useradd --create-home --uid 1000 --shell /bin/bash user 2>/dev/null \\
    || useradd --create-home --shell /bin/bash user || adduser -D user
mkdir -p /home/user /etc/sudoers.d /usr/bin
chown user: /home/user
printf 'user ALL=(ALL:ALL) NOPASSWD:ALL\\n' >/etc/sudoers.d/hutch
chmod 440 /etc/sudoers.d/hutch
[ ! -f /etc/profile ] || sed -i '/^if .*id -u/,/^export PATH/d' /etc/profile
[ -L /usr/bin/sudo ] || [ ! -e /usr/bin/sudo ] || mv /usr/bin/sudo /usr/bin/sudo.setuid
ln -sf /.hutch/bin/sudo /usr/bin/sudo
"""
PRELUDE = (
    Step(type="RUN", args=[_PROVISION, "root"]),
    Step(type="USER", args=["user"]),
    Step(type="WORKDIR", args=["/home/user"]),
)
"""Run in an image before the first step."""


@dataclass(frozen=True)
class Pulled:
    """What the node has of an image."""

    template: str


class Puller:
    """Pulls images, each once for an organisation."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._work = context.settings.server_dir / "pulls"

    def sweep(self) -> None:
        """Remove what a process that was killed has left. Blocks."""
        shutil.rmtree(self._work, ignore_errors=True)

    async def pull(
        self, build: BuildRow, image: str, login: tuple[str, str] | None, say: Callable[[str], None]
    ) -> Pulled:
        """Raises `InvalidRequest`, `InputFailed`, `PayloadTooLarge`, `DiskFull`, and what the node does."""
        async with self._source(image, login) as source:
            manifest = await source.manifest()
            config = await source.config(manifest)
            if (config.architecture or "amd64", config.os or "linux") != ("amd64", "linux"):
                raise InputFailed(f"{source.what} is for {config.os}/{config.architecture}, not for linux/amd64")
            digests = [each.digest for each in (manifest.config, *manifest.layers)]
            key = digest(["image", flatten.FORMAT, build.org, *digests])
            if await self._context.fleet.nodes()[0].find_layer(key) is None:
                await self._take(build.id, source, manifest, key, say)
        return await self._template(build.org, image, key, config)

    @asynccontextmanager
    async def _source(self, image: str, login: tuple[str, str] | None) -> AsyncIterator[Source]:
        settings = self._context.settings
        if image.startswith("oci:"):
            yield _layout(settings.oci_dir, image.removeprefix("oci:"))
            return
        async with Registry(parse_reference(image), login, settings.allow_private_inputs) as registry:
            yield registry

    async def _take(self, build: str, source: Source, manifest: Manifest, key: str, say: Callable[[str], None]) -> None:
        """Fetch its layers, put them over one another, and give that to the node."""
        most = self._context.settings.max_image
        if sum(layer.size for layer in manifest.layers) > most:
            raise InputFailed(f"{source.what} is larger than {most} bytes", hint="HUTCH_MAX_IMAGE is the limit.")
        work, budget = self._work / build, Budget(most)
        await asyncio.to_thread(_make_anew, work)
        try:
            archives, layers = [], []
            for number, layer in enumerate(manifest.layers):
                say(f"[base] layer {number + 1}/{len(manifest.layers)}, {layer.size} bytes")
                blob, archive = work / "blob", work / f"{number}.tar"
                await _write(blob, source.verified(layer))
                await asyncio.to_thread(unpack_blob, blob, archive, budget)
                archives.append(archive)
                layers.append(await asyncio.to_thread(read_layer, archive, number, budget))
            tree = await asyncio.to_thread(flatten.flatten, layers)
            stream = flatten.packed(tree, archives, {"etc/resolv.conf": _NAMESERVER, "tmp/.hutch": b""})
            async with aclosing(in_pieces(stream)) as pieces:
                await self._context.fleet.nodes()[0].take_in_layer(key, pieces)
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _template(self, org: str, image: str, key: str, config: ImageConfig) -> Pulled:
        wanted = MadeTemplate(
            org=org,
            base=None,
            base_image=None,
            layer=key,
            description=f"the image {image[:200]}",
            env=config.env,
            user="root",
            workdir="/",
            resources=_RESOURCES,
        )
        name = made_name(f"image-{image.partition('@')[0]}", digest(wanted.model_dump(mode="json")))
        messages = await self._context.fleet.nodes()[0].make_template(name, wanted)
        async with aclosing(cast(AsyncGenerator[dict[str, Any], None], messages)) as stream:
            async for message in stream:
                if message.get("type") == "error":
                    raise from_problem(message.get("problem") or {})
        return Pulled(name)


def _layout(directory: Path | None, wanted: str) -> Layout:
    """`name` or `name:tag`: a directory of the operator's; nobody names a path."""
    name, colon, tag = wanted.partition(":")
    if directory is None:
        raise InvalidRequest("this Hutch has no images of its own", hint="HUTCH_OCI_DIR is where they would be.")
    parts = name.split("/")
    if not name or "\0" in name or len(name) > 200 or any(part in ("", ".", "..") for part in parts):
        raise InvalidRequest(f"'oci:{wanted[:100]}' is no name of an image", field="fromImage")
    path = directory.joinpath(*parts)
    try:
        there = (path / "index.json").is_file()
    except OSError as error:
        raise InputFailed(
            f"the image oci:{name} cannot be read: {error.strerror}",
            hint="The server's user (HUTCH_SERVER_USER) has to be able to read HUTCH_OCI_DIR.",
        ) from error
    if not there:
        raise InputFailed(f"there is no image oci:{name}")
    return Layout(path, tag if colon else None, f"oci:{wanted[:100]}")


def _make_anew(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)


async def _write(path: Path, pieces: AsyncGenerator[bytes, None]) -> None:
    file = await asyncio.to_thread(path.open, "wb")
    try:
        async with aclosing(pieces) as stream:
            async for piece in stream:
                await asyncio.to_thread(file.write, piece)
    finally:
        await asyncio.to_thread(file.close)
