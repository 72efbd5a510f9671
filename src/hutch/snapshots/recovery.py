"""Opening a store: whatever the last process was doing when it ended, or the machine when it lost power."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hutch.snapshots.catalog import Catalog
from hutch.snapshots.disk import Disk
from hutch.snapshots.hot import allocated
from hutch.snapshots.index import Index
from hutch.snapshots.layout import Layout
from hutch.snapshots.segments import Segments


@dataclass(frozen=True)
class Recovered:
    """What was found."""

    hot: dict[str, int]
    """Bytes of the plain files of each snapshot that has them; those first that were used longest ago."""
    pending: list[str]
    """Snapshots of which the plain files are all there is: they are still to be stored. Oldest first."""
    stored: set[str]
    """Snapshots that are whole in chunks."""
    lost: list[str]
    """Snapshots that a power cut took before their files had reached the disk; they were removed."""


def machine_boot() -> str:
    """The kernel's id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def recover(layout: Layout, disk: Disk, index: Index, catalog: Catalog, segments: Segments, boot: str) -> Recovered:
    """Remove what is half-made or belongs to nothing, and say what is there. Running it twice, or being killed in the
    middle of it, does no harm. Raises `OSError`, `DiskFull`."""
    for path in layout.tmp.iterdir():
        _remove(disk, path)
    known = segments.pack_names()
    for path in layout.packs.iterdir():
        if path.name not in known:
            disk.unlink(path)
    hot, lost = _hot_copies(layout, disk, catalog, same_boot=index.last_boot() == boot)
    index.note_boot(boot)  # last: until here, a second start must see the power cut too
    progress = catalog.progress()
    return Recovered(
        hot=hot,
        pending=[one.id for one in progress if not one.stored],
        stored={one.id for one in progress if one.stored},
        lost=lost,
    )


def _hot_copies(layout: Layout, disk: Disk, catalog: Catalog, *, same_boot: bool) -> tuple[dict[str, int], list[str]]:
    """Files whose writing was not synced are whole while the machine has not gone down, and worth nothing after."""
    found = {path.name: path for path in layout.hot.iterdir()}
    lost: list[str] = []
    trusted: list[tuple[float, str]] = []
    for one in catalog.progress():
        path = found.get(one.id)
        if path is not None and (one.synced or same_boot):
            trusted.append((path.stat().st_mtime, one.id))
            del found[one.id]
        elif not one.stored:
            lost.append(one.id)
    for id in lost:
        catalog.delete(id)
    for path in found.values():
        _remove(disk, path)
    return {id: allocated(layout.hot_copy(id)) for _, id in sorted(trusted)}, lost


def _remove(disk: Disk, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        disk.remove_tree(path)
    else:
        disk.unlink(path)
