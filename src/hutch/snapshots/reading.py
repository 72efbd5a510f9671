"""Getting a snapshot back out of its chunks."""

from __future__ import annotations

from hutch.snapshots.disk import telling_full
from hutch.snapshots.hot import allocated
from hutch.snapshots.parts import Parts
from hutch.snapshots.rebuild import Rebuild, corrupt
from hutch.snapshots.recipe import Recipe
from hutch.snapshots.zstd import Damaged


def rebuild(parts: Parts, id: str) -> int:
    """Put the plain files together in the hot cache; the bytes they take. Blocks. Raises `SnapshotNotFound`,
    `SnapshotCorrupt`, `DiskFull`; then nothing of them is left."""
    recipe = _recipe(parts, id)
    if recipe is None:
        raise corrupt(id, None, "its plain files are gone, and it was not stored yet")
    temporary = parts.layout.temporary(id)
    try:
        with telling_full():
            parts.catalog.mark_synced([id], False)  # these files will not be: they can be made again
            temporary.mkdir(mode=0o700)
            Rebuild(parts.layout, parts.disk, parts.segments, id, recipe).write(temporary)
            parts.disk.rename(temporary, parts.layout.hot_copy(id))
    except BaseException:
        parts.disk.remove_tree(temporary)
        raise
    return allocated(parts.layout.hot_copy(id))


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
