"""A snapshot as one file.

A tar (ustar) of plain files with these members, in this order and no others:

    snapshot.json            {"format": 1, "snapshot": SnapshotRecord, "files": [{"name": ..., "size": ...}, ...]}
    files/NAME/000000        the first 4 MiB of the first file, as one zstd frame that says its size
    files/NAME/000001        the next 4 MiB, and so on; the last part of a file is shorter, an empty file has none
    ...                      the other files in the order of snapshot.json
    sums.json                {NAME: SHA-256 of the whole file in hexadecimal, ...}

`tar x`, then `cat files/NAME/* | zstd -d` gives back each file.
"""

from __future__ import annotations

import tarfile
from typing import Literal

from pydantic import Field

from hutch.model import Model, SnapshotRecord

FORMAT = 1
PART_BYTES = 4 << 20
MANIFEST = "snapshot.json"
SUMS = "sums.json"
BLOCK = tarfile.BLOCKSIZE
MOST_FILES = 64
MOST_JSON = 1 << 20
MOST_PART = PART_BYTES + (1 << 16)
"""A part that does not compress is a little longer than what is in it."""

NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
"""What the files of a snapshot may be called, in an archive and anywhere else."""


class ArchivedFile(Model):
    """One file of the snapshot."""

    name: str = Field(pattern=NAME)
    size: int = Field(ge=0, le=2**50)

    def parts(self) -> list[tuple[str, int]]:
        """The tar members that hold it, each with the bytes that it stands for."""
        count = -(-self.size // PART_BYTES)
        return [(f"files/{self.name}/{n:06}", min(PART_BYTES, self.size - n * PART_BYTES)) for n in range(count)]


class Manifest(Model):
    """`snapshot.json`."""

    format: Literal[1] = 1
    snapshot: SnapshotRecord
    files: list[ArchivedFile] = Field(max_length=MOST_FILES)


def member(name: str, data: bytes) -> bytes:
    """A tar member, padded to whole blocks."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    header.mode = 0o600
    return header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)
