"""A snapshot as one file: there and back, and whatever else somebody sends."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import tarfile
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hutch.errors import DiskFull, HutchError, InvalidArchive, PayloadTooLarge, SnapshotNotFound
from hutch.snapshots import Origin, SnapshotStore
from hutch.snapshots.archive import PART_BYTES, member
from tests.unit.snapshots.make import NOON, admit, frozen, memory, read, record, tree

ORIGIN = Origin(org="org_b", sandbox_id="sbx_b", created_by="key_b", created_at=NOON)
LIMIT = 1 << 30


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def exported(store: SnapshotStore, id: str) -> bytes:
    return b"".join([part async for part in store.export(id)])


async def refused(store: SnapshotStore, data: bytes, error: type[HutchError] = InvalidArchive) -> str:
    before = [one.id for one in await store.records()]
    with pytest.raises(error) as caught:
        await store.import_archive(pieces(data), ORIGIN, LIMIT)
    assert [one.id for one in await store.records()] == before
    return str(caught.value)


def rewritten(archive: bytes, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> bytes:
    """The archive with each member as `change` wants it."""
    out = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for one in tar:
            file = tar.extractfile(one)
            assert file is not None
            if changed := change(one.name, file.read()):
                out.append(member(*changed))
    return b"".join(out) + bytes(1024)


def instead(name: str, data: bytes) -> Callable[[str, bytes], tuple[str, bytes]]:
    return lambda found, old: (found, data if found == name else old)


def edited(archive: bytes, edit: Callable[[dict[str, object]], object]) -> bytes:
    """The archive with another manifest."""

    def change(name: str, data: bytes) -> tuple[str, bytes]:
        if name != "snapshot.json":
            return name, data
        manifest = json.loads(data)
        edit(manifest)
        return name, json.dumps(manifest).encode()

    return rewritten(archive, change)


@pytest.fixture
async def archive(store: SnapshotStore) -> bytes:
    id = await admit(store, {"a.img": memory([1, 2, 3]), "pages.img": memory([4] * 2000)}, record(name="kept", turn=3))
    return await exported(store, id)


async def test_an_export_comes_back_as_a_new_snapshot_of_who_imports_it(store: SnapshotStore) -> None:
    files = frozen(1) | {"big": memory(list(range(1500))), "exact": bytes(2 * PART_BYTES)}
    given = record(1, name="kept", turn=3, parent=record().id, created_by="key_a")
    archive = await exported(store, await admit(store, files, given))
    found = await store.import_archive(pieces(archive), ORIGIN, LIMIT)
    assert await read(store, found.id) == files
    assert found.id != given.id
    assert (found.org, found.sandbox_id, found.created_by, found.parent) == ("org_b", "sbx_b", "key_b", None)
    assert (found.name, found.turn, found.runtime, found.created_at) == ("kept", 3, given.runtime, NOON)
    assert await exported(store, found.id) != archive  # it says whose it is


@pytest.mark.parametrize(("kind", "disk"), [("full", False), ("full", True), ("disk", True)])
async def test_what_it_holds_is_known_after_an_import(store: SnapshotStore, kind: str, disk: bool) -> None:
    archive = await exported(store, await admit(store, frozen(1), record(kind=kind, disk=disk)))
    found = await store.import_archive(pieces(archive), ORIGIN, LIMIT)
    assert (found.kind, found.disk) == (kind, disk)


async def test_the_file_can_be_read_with_tar_and_zstd_alone(store: SnapshotStore, tmp_path: Path) -> None:
    files = {"pages.img": memory(list(range(2500)))}
    (tmp_path / "a.tar").write_bytes(await exported(store, await admit(store, files)))
    subprocess.run(["tar", "-xf", "a.tar"], cwd=tmp_path, check=True)
    parts = sorted((tmp_path / "files/pages.img").iterdir())
    assert len(parts) == 3
    assert b"".join(zstandard.decompress(part.read_bytes()) for part in parts) == files["pages.img"]


async def test_memory_does_not_grow_with_the_snapshot(store: SnapshotStore) -> None:
    id = await admit(store, {"pages.img": bytes(96 << 20)})
    tracemalloc.start()
    try:
        await store.import_archive(store.export(id), ORIGIN, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


async def test_an_archive_that_ends_anywhere_is_refused(store: SnapshotStore, archive: bytes) -> None:
    for length in (0, 1, 511, 512, 700, 5000, len(archive) // 2, len(archive) - 1024, len(archive) - 1):
        assert "ends too early" in await refused(store, archive[:length])


async def test_padding_at_the_end_is_fine_and_anything_else_is_not(store: SnapshotStore, archive: bytes) -> None:
    await store.import_archive(pieces(archive + bytes(8192)), ORIGIN, LIMIT)
    assert "goes on" in await refused(store, archive + b"x")
    assert "goes on" in await refused(store, archive + bytes(2 << 20))
    assert "goes on" in await refused(store, archive[:-1024] + member("more", b"") + bytes(1024))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b", "..", ".hidden", "", "a\x00b", "x" * 65])
async def test_names_that_lead_elsewhere_are_refused(store: SnapshotStore, archive: bytes, name: str) -> None:
    evil = edited(archive, lambda manifest: manifest["files"][0].update(name=name))  # type: ignore[index]
    assert "name" in await refused(store, evil)


async def test_links_directories_and_devices_are_refused(store: SnapshotStore, archive: bytes) -> None:
    header = tarfile.TarInfo("snapshot.json")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_LONGNAME):
        header.type, header.linkname = kind, "/etc/passwd"
        await refused(store, header.tobuf() + archive)


async def test_members_out_of_order_missing_or_double_are_refused(store: SnapshotStore, archive: bytes) -> None:
    part = "files/pages.img/000000"
    swapped = {part: "files/pages.img/000001", "files/pages.img/000001": part}
    assert "should be" in await refused(store, rewritten(archive, lambda name, data: (swapped.get(name, name), data)))
    without = rewritten(archive, lambda name, data: None if name == part else (name, data))
    assert "should be" in await refused(store, without)
    double = edited(archive, lambda manifest: manifest["files"].append(manifest["files"][0]))  # type: ignore[attr-defined]
    assert "twice" in await refused(store, double)


async def test_sizes_that_lie_are_refused(store: SnapshotStore, archive: bytes) -> None:
    for size in (-1, 1, 8191, 8193, 2**60):
        await refused(store, edited(archive, lambda manifest, n=size: manifest["files"][1].update(size=n)))  # type: ignore[index, misc]
    huge = edited(archive, lambda manifest: manifest["files"][1].update(size=2**40))  # type: ignore[index]
    await refused(store, huge, PayloadTooLarge)


async def test_decompression_bombs_are_refused_without_being_unpacked(store: SnapshotStore, archive: bytes) -> None:
    bomb = zstandard.compress(bytes(1 << 30))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 30))
    tracemalloc.start()
    try:
        for data in (bomb, unsized, bomb * 2, b"", b"\x28\xb5\x2f\xfd"):
            assert "damaged" in await refused(store, rewritten(archive, instead("files/pages.img/000001", data)))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


async def test_another_content_than_the_sums_say_is_refused(store: SnapshotStore, archive: bytes) -> None:
    other = zstandard.compress(memory([9, 9, 9]))
    assert "another hash" in await refused(store, rewritten(archive, instead("files/a.img/000000", other)))
    for sums in (b"{}", b"[]", b"nonsense", b"[" * 100_000, b"\xff"):
        await refused(store, rewritten(archive, instead("sums.json", sums)))


async def test_a_manifest_of_another_kind_is_refused(store: SnapshotStore, archive: bytes) -> None:
    for data in (b"", b"{}", b"null", b"[" * 100_000, b"\xff\xfe", b'{"format": 2}'):
        assert "snapshot.json" in await refused(store, rewritten(archive, instead("snapshot.json", data)))
    await refused(store, edited(archive, lambda manifest: manifest.update(more=1)))


@given(at=st.integers(0, 10**9), byte=st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_changed_byte_is_refused_or_means_nothing(
    store: SnapshotStore, archive: bytes, at: int, byte: int
) -> None:
    changed = bytearray(archive)
    changed[at % len(archive)] ^= byte
    try:
        found = await store.import_archive(pieces(bytes(changed)), ORIGIN, LIMIT)
    except InvalidArchive:
        return
    assert await read(store, found.id) == {"a.img": memory([1, 2, 3]), "pages.img": memory([4] * 2000)}
    await store.delete(found.id)


async def test_what_was_refused_leaves_nothing(store: SnapshotStore, archive: bytes, root: Path) -> None:
    (only,) = await store.records()
    await store.delete(only.id)
    await refused(store, archive[:-600])
    async with asyncio.timeout(20):
        while tree(root) != []:  # the background may have been reading the one that was deleted
            await store.collect()


async def test_there_is_nothing_to_export_of_a_snapshot_that_is_not_there(store: SnapshotStore) -> None:
    with pytest.raises(SnapshotNotFound):
        await exported(store, record().id)


async def test_an_import_stops_when_the_disk_gets_short_of_room(store: SnapshotStore, archive: bytes) -> None:
    """What an archive unpacks to is not known from its own size."""
    asked = 0

    def check_room() -> None:
        nonlocal asked
        asked += 1
        if asked > 2:
            raise DiskFull("short of room")

    before = [one.id for one in await store.records()]
    with pytest.raises(DiskFull, match="short of room"):
        await store.import_archive(pieces(archive), ORIGIN, LIMIT, check_room=check_room)
    assert [one.id for one in await store.records()] == before
    assert list(store._layout.tmp.glob("stage.*")) == []
