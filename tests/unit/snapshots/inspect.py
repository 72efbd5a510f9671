"""Whether what lies on the disk and what the index says are the same."""

from __future__ import annotations

from pathlib import Path

from hutch.snapshots import SnapshotStore
from hutch.snapshots.catalog import Catalog
from hutch.snapshots.index import Index
from tests.unit.snapshots.make import Files, read


async def settle(store: SnapshotStore) -> None:
    """Wait until everything is in chunks."""
    for one in await store.records():
        await store.wait_stored(one.id)


async def intact(store: SnapshotStore, expected: dict[str, Files]) -> set[str]:
    """Read every snapshot, from plain files and from chunks; their ids."""
    ids = {one.id for one in await store.records()}
    for id in ids:
        assert await read(store, id) == expected[id]
    await settle(store)
    for id in ids:
        await store.verify(id)
        assert await read(store, id) == expected[id]
    return ids


def consistent(root: Path) -> None:
    """For a closed store: references are counted right, and there is no file that nothing names."""
    index = Index(root / "index.db")
    catalog = Catalog(index)
    with index.read() as db:
        counted: dict[int, int] = {}
        names = {name for (name,) in db.execute("SELECT name FROM packs")}
        for (id,) in db.execute("SELECT id FROM snapshots").fetchall():
            if recipe := catalog.recipe(id):
                assert sum(e.length for file in recipe.files for e in file.extents) == recipe.size
                for segment in recipe.segments():
                    counted[segment] = counted.get(segment, 0) + 1
        assert dict(db.execute("SELECT id, refs FROM segments WHERE refs != 0")) == counted
        assert db.execute("SELECT * FROM chunks WHERE segment NOT IN (SELECT id FROM segments)").fetchall() == []
        assert db.execute("SELECT * FROM segments WHERE pack NOT IN (SELECT id FROM packs)").fetchall() == []
        known = {id for (id,) in db.execute("SELECT id FROM snapshots")}
    index.close()
    assert {path.name for path in (root / "packs").iterdir()} == names
    assert {path.name for path in (root / "hot").iterdir()} <= known
    assert list((root / "tmp").iterdir()) == []
