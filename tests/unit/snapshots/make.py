"""Snapshots to put into a store."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from hutch.model import RuntimeManifest, SnapshotRecord, new_id
from hutch.snapshots import SnapshotStore

RUNTIME = RuntimeManifest(runtime="gvisor", version="1", cpu_features=["avx2"])
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PAGE = 4096

Files = Mapping[str, bytes]


def record(minute: float = 0, **fields: Any) -> SnapshotRecord:
    """A snapshot's record, taken so many minutes after noon."""
    fields = {"id": new_id("snp"), "sandbox_id": "sbx_a", "org": "org_a", "runtime": RUNTIME} | fields
    return SnapshotRecord(created_at=NOON + timedelta(minutes=minute), **fields)


def memory(pages: list[int], seed: int = 0) -> bytes:
    """Guest memory: one page for each number, the same for the same number; 0 is a page of zeros."""
    return b"".join(_page(number, seed) for number in pages)


@cache
def _page(number: int, seed: int) -> bytes:
    return random.Random(seed << 32 | number).randbytes(PAGE) if number else bytes(PAGE)


def frozen(first: int, count: int = 300, state: bytes = b"kernel objects") -> dict[str, bytes]:
    """A freeze of `count` pages of memory, beginning with page number `first`: two of them overlap where their numbers
    do, at other places in the file."""
    pages = [0, 0, *range(first, first + count), 0]
    return {"pages.img": memory(pages), "checkpoint.img": state * 100, "empty": b""}


async def admit(store: SnapshotStore, files: Files, given: SnapshotRecord | None = None) -> str:
    """Freeze these files into the store; the snapshot's id."""
    async with store.stage() as directory:
        for name, data in files.items():
            (directory / name).write_bytes(data)
        return (await store.admit(directory, given or record())).id


async def stored(store: SnapshotStore, files: Files, given: SnapshotRecord | None = None) -> str:
    """`admit`, and wait until it is in chunks."""
    id = await admit(store, files, given)
    await store.wait_stored(id)
    return id


async def read(store: SnapshotStore, id: str) -> dict[str, bytes]:
    """The snapshot's files."""
    async with store.materialise(id) as directory:
        return content(directory)


def content(directory: Path) -> dict[str, bytes]:
    """All files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def tree(root: Path) -> list[str]:
    """Every file below the store's root but the index and the lock."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in found if "/" in name)
