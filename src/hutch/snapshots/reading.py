"""Getting a snapshot back out of its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hutch.snapshots.checksums import of_files
from hutch.snapshots.disk import telling_full
from hutch.snapshots.hot import allocated
from hutch.snapshots.parts import Parts
from hutch.snapshots.rebuild import Rebuild, corrupt
from hutch.snapshots.recipe import Recipe
from hutch.snapshots.zstd import Damaged


def rebuild(parts: Parts, id: str) -> int:
    """Put the plain files together in the hot cache; the bytes they take. Blocks. Raises `SnapshotNotFound`,
    `SnapshotCorrupt`, `DiskFull`; then nothing of them is left."""
    with _made_again(parts, id) as made:
        parts.disk.rename(made, parts.layout.hot_copy(id))
    return allocated(parts.layout.hot_copy(id))


def mend(parts: Parts, id: str) -> None:
    """Make plain files again from chunks, each in the place of what is there: who reads that reads on. The snapshot's
    lock is held. Blocks. Raises as `rebuild`; then they are as they were."""
    with _made_again(parts, id) as made:
        parts.catalog.put_checksums(id, of_files(made))
        for path in made.iterdir():
            parts.disk.rename(path, parts.layout.hot_copy(id) / path.name)


@contextmanager
def _made_again(parts: Parts, id: str) -> Iterator[Path]:
    recipe = _recipe(parts, id)
    if recipe is None:
        raise corrupt(id, None, "its plain files are gone, and it was not stored yet")
    temporary = parts.layout.temporary(id)
    try:
        with telling_full():
            parts.catalog.mark_synced([id], False)  # these files will not be: they can be made again
            temporary.mkdir(mode=0o700)
            Rebuild(parts.layout, parts.disk, parts.segments, id, recipe).write(temporary)
            yield temporary
    finally:
        parts.disk.remove_tree(temporary)


def verify(parts: Parts, id: str) -> None:
    """Check every chunk. Blocks. Raises `SnapshotNotFound`, `SnapshotCorrupt`."""
    with parts.segments.pinning() as pins:
        recipe = _recipe(parts, id)
        if recipe is None:
            return
        parts.segments.pin(recipe.segments(), pins)
        try:
            Rebuild(parts.layout, parts.disk, parts.segments, id, recipe).verify(parts.pace.meter())
        finally:
            parts.catalog.get(id)  # deleted before the pins were set: it is not damaged, but gone


def _recipe(parts: Parts, id: str) -> Recipe | None:
    try:
        return parts.catalog.recipe(id)
    except Damaged as error:
        raise corrupt(id, None, str(error)) from error
