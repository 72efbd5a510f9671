"""Collecting garbage in the middle of everything else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hutch.errors import SnapshotNotFound
from hutch.snapshots import collect, packs
from hutch.snapshots.catalog import Catalog
from hutch.snapshots.collect import Collector
from hutch.snapshots.disk import Disk
from hutch.snapshots.index import Index
from hutch.snapshots.ingest import Ingest
from hutch.snapshots.layout import Layout
from hutch.snapshots.rebuild import Rebuild
from hutch.snapshots.segments import Segments
from tests.unit.snapshots.inspect import consistent
from tests.unit.snapshots.make import Files, content, frozen, memory, record


def nothing() -> None:
    """A step between which nothing happens."""


class Bench:
    """The parts of a store without its threads, so that one can act in the middle of another."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.prepare()
        self.disk = Disk()
        self.index = Index(self.layout.index)
        self.segments = Segments(self.index)
        self.catalog = Catalog(self.index)
        self.collector = Collector(self.layout, self.disk, self.segments)

    def ingest(self, files: Files, step: Callable[[], None] = nothing, org: str | None = "org_a") -> str:
        one = record(org=org)
        source = self.layout.hot_copy(one.id)
        source.mkdir()
        for name, data in files.items():
            (source / name).write_bytes(data)
        size = sum(len(data) for data in files.values())
        self.catalog.insert(one.model_copy(update={"logical_bytes": size}))
        Ingest(self.layout, self.disk, self.segments, org).run(one.id, source, self.catalog, step)
        return one.id

    def rebuild(self, id: str) -> Rebuild:
        recipe = self.catalog.recipe(id)
        assert recipe is not None
        return Rebuild(self.layout, self.disk, self.segments, id, recipe)

    def read(self, id: str) -> dict[str, bytes]:
        target = self.layout.temporary("read")
        target.mkdir()
        self.rebuild(id).write(target)
        found = content(target)
        self.disk.remove_tree(target)
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "root")


def test_what_an_ingest_has_found_or_written_is_not_collected_under_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hutch.snapshots.ingest.PACK_BYTES", 256 << 10)  # many packs: found, written and still to come
    old = bench.ingest(frozen(1, 1000))
    deleted = False

    def interfere() -> None:
        nonlocal deleted
        if not deleted:
            bench.catalog.delete(old)
            deleted = True
        bench.collector.run(nothing)

    files = frozen(500, 1000)
    new = bench.ingest(files, interfere)
    bench.collector.run(nothing)
    assert deleted
    assert bench.read(new) == files
    bench.index.close()


def test_a_snapshot_deleted_while_it_is_stored_leaves_nothing(bench: Bench) -> None:
    def delete() -> None:
        for one in bench.catalog.records():
            bench.catalog.delete(one.id)

    with pytest.raises(SnapshotNotFound):
        bench.ingest(frozen(1), delete)
    bench.collector.run(nothing)
    assert list(bench.layout.packs.iterdir()) == []
    bench.index.close()


def test_packs_that_are_rewritten_under_a_reader_do_not_hurt_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "SMALL_PACKS", 2)
    ids = [bench.ingest(frozen(1, 100)), bench.ingest(frozen(50, 100))]
    reader = bench.rebuild(ids[1])
    original, moved = packs.PackReader.__init__, []

    def slow(self: packs.PackReader, path: Path) -> None:
        if not moved:
            moved.append(path)
            assert bench.collector.run(nothing).packs_rewritten == 2
            assert not path.exists()
        original(self, path)

    monkeypatch.setattr("hutch.snapshots.rebuild.PackReader.__init__", slow)
    reader.verify(nothing)
    assert moved
    bench.index.close()


def test_a_pack_that_is_mostly_dead_is_rewritten_and_the_rest_of_it_stays(bench: Bench) -> None:
    both = bench.ingest({"pages.img": memory(list(range(1, 2001)))})
    some = {"pages.img": memory(list(range(1700, 2001)))}
    part = bench.ingest(some)
    (before,) = (path.stat().st_size for path in bench.layout.packs.iterdir())
    bench.catalog.delete(both)
    done = bench.collector.run(nothing)
    (after,) = (path.stat().st_size for path in bench.layout.packs.iterdir())
    assert (done.packs_rewritten, done.dropped_bytes) == (1, before - after)
    assert after < before * 0.2
    assert bench.read(part) == some
    assert bench.collector.run(nothing).packs_rewritten == 0  # and that was that
    bench.index.close()


def test_a_collection_that_is_stopped_leaves_a_whole_store(bench: Bench, tmp_path: Path) -> None:
    ids = [bench.ingest(frozen(n * 500, 100)) for n in range(20)]
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 30:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        bench.collector.run(stop)
    for number, id in enumerate(ids):
        assert bench.read(id) == frozen(number * 500, 100)
    for path in bench.layout.hot.iterdir():
        bench.disk.remove_tree(path)
    bench.index.close()
    consistent(tmp_path / "root")


def test_segment_numbers_are_never_used_twice(bench: Bench) -> None:
    bench.catalog.delete(bench.ingest(frozen(1)))
    bench.collector.run(nothing)
    last = bench.segments.new_id()
    bench.index.close()
    again = Bench(bench.layout.root)
    assert again.segments.new_id() == last
    assert last > 1
    again.index.close()


def test_a_file_that_cannot_be_read_is_no_snapshot(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        bench.ingest(frozen(1), lambda: [os.unlink(path) for path in bench.layout.hot.glob("*/*")] and None)
    assert [one.stored for one in bench.catalog.progress()] == [False]
    bench.index.close()
