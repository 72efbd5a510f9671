"""What stands beside a snapshot's image files, and which sandboxes they can be thawed into."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from hutch.errors import SnapshotCorrupt, SnapshotIncompatible
from hutch.model import Model, Resources
from hutch.runtime.cpu import Cpu

MANIFEST = "manifest.json"

_BLOCK = 4096


class ImageIdentity(Model):
    """A root file system, told from all others. A snapshot has none of its content, only places in it."""

    path: str
    """Where it was. Another place will do."""
    bytes: int
    superblock: str
    """SHA-256 of the first block, in which each EROFS image has a UUID and a build time of its own."""

    @classmethod
    def of(cls, image: Path) -> ImageIdentity:
        """Read from the file. Raises `OSError`."""
        with open(image, "rb") as file:
            block = file.read(_BLOCK)
            size = os.fstat(file.fileno()).st_size
        return cls(path=str(image), bytes=size, superblock=hashlib.sha256(block).hexdigest())

    def same(self, other: ImageIdentity) -> bool:
        """Whether both are the same image, wherever they are."""
        return (self.bytes, self.superblock) == (other.bytes, other.superblock)

    def __str__(self) -> str:
        return f"{self.path} ({self.bytes} bytes, {self.superblock[:12]})"


class Origin(Model):
    """What a sandbox is made of: written down when it starts, and again in each of its snapshots."""

    runtime: str
    version: str
    """Of the runtime's program that is the sandbox's kernel."""
    image: ImageIdentity
    resources: Resources
    addresses: tuple[str, ...]
    """The address it has, and before it all that it has had; sockets may still bear them."""


class Manifest(Model):
    """One snapshot."""

    format: Literal[1] = 1
    origin: Origin
    cpu: Cpu
    files: dict[str, int]
    """Names and sizes of the image files, in bytes."""
    created_at: datetime

    @property
    def bytes(self) -> int:
        """Size of the whole, without this."""
        return sum(self.files.values())

    def check(self, new: Origin, cpu: Cpu) -> None:
        """Raise `SnapshotIncompatible` unless it can be thawed as `new` on this CPU."""
        old = self.origin
        for what, same, theirs, ours in (
            ("runtime", old.runtime == new.runtime, old.runtime, new.runtime),
            ("runtime version", old.version == new.version, old.version, new.version),
            ("image", old.image.same(new.image), str(old.image), str(new.image)),
            # Kept inside, in the kernel's state: another figure would only seem to be in force.
            ("disk size", *_compare(old.resources.disk_mib, new.resources.disk_mib)),
            ("process limit", *_compare(old.resources.pids, new.resources.pids)),
        ):
            if not same:
                raise SnapshotIncompatible(
                    f"the snapshot's {what} is {theirs}, here it is {ours}", what=what, snapshot=theirs, here=ours
                )
        if lacks := cpu.lacks(self.cpu):
            raise SnapshotIncompatible(
                f"the snapshot is of another CPU ({self.cpu.model}) than this one ({cpu.model}): {lacks}",
                what="cpu",
                snapshot=self.cpu.model,
                here=cpu.model,
            )


def read_manifest(snapshot: Path) -> Manifest:
    """A snapshot's manifest. Raises `SnapshotCorrupt` also when an image file is missing or not whole."""
    try:
        manifest = Manifest.model_validate_json((snapshot / MANIFEST).read_bytes())
        sizes = {name: (snapshot / name).stat().st_size for name in manifest.files}
    except (OSError, ValidationError) as error:
        raise SnapshotCorrupt(f"snapshot {snapshot.name} cannot be read: {error}") from error
    for name, expected in manifest.files.items():
        if sizes[name] != expected:
            raise SnapshotCorrupt(f"snapshot {snapshot.name}: {name} has {sizes[name]} bytes instead of {expected}")
    return manifest


def _compare(theirs: int, ours: int) -> tuple[bool, str, str]:
    return theirs == ours, str(theirs), str(ours)
